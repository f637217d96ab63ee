"""The `preprocess` model: requests in, the engine's tensors or an error out; every row is in the ledger first."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy import PLANNER_VERSION
from llm_policy.errors import Code, PolicyError, Unavailable
from llm_policy.guidance.backends.names import usable_backends
from llm_policy.guidance.compile.compile_queue import GuideCompiler
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.guide import EngineGuide, GuideResolver
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.release.manifest import Manifest
from llm_policy.rules.headers import loggable
from llm_policy.steps.ledger_writer import LedgerWriter, boot_id
from llm_policy.steps.preprocess import EngineRow, PreparedRequest, Preprocess, with_schema_ids
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import (
    build_response,
    open_release,
    read_inputs,
    read_parameters,
    state_directory,
)
from llm_policy.triton.error_responses import as_policy_error, error_response, internal_fault
from llm_policy.triton.request_log import RequestLog, write_lines
from llm_policy.triton.tensor_cache import TensorCache

CANARY_TOKEN = "LLMSTACK_CANARY_TOKEN"  # noqa: S105 - a variable's name


@dataclass
class _PendingRequest:
    """A request of the current batch, admitted unless it has an `error`.

    `engine_guides` has one entry per row: the compiled guide, or None for an unguided row or a guide not compiled yet.
    """

    request: Any
    records: list[RowRecord]
    engine_rows: list[EngineRow] = field(default_factory=list)
    engine_guides: list[EngineGuide | None] = field(default_factory=list)
    error: PolicyError | None = None

    def set_guides(self, engine_guides: list[EngineGuide | None]) -> None:
        """Take over the compiled guides and their schema ids."""
        self.engine_guides = engine_guides
        self.records = with_schema_ids(self.records, engine_guides)

    def reject(self, error: PolicyError) -> None:
        """Reject the request with `error`, which replaces an earlier one."""
        self.error = error
        self.records = rejected(self.records, error.code)


class PreprocessModel:
    """The `preprocess` model.

    Requests whose guides are compiled are answered from `execute`. The others are answered from the guide compiler's
    thread, so that compiling a new guide delays no other request.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release. Any exception keeps the model from loading, with its text as the reason."""
        release, state_dir = open_release(), state_directory()
        manifest = release.manifest
        resolver = GuideResolver(
            manifest.guidance, {name: release.schema_text(name) for name in sorted(manifest.schemas)}
        )
        tokenizer = Tokenizer.load(release.tokenizer_dir)
        self._step = Preprocess(manifest, tokenizer, resolver, os.environ.get(CANARY_TOKEN, ""))
        self._tensors = TensorCache()
        self._ledger = LedgerWriter(state_dir, manifest, boot_id())
        self._log = RequestLog()
        backends = usable_backends(manifest.guidance.backend, os.environ)
        cache = GuideCache(state_dir / "guides.db", _guide_cache_context(manifest, backends))
        self._guide_compiler = GuideCompiler(
            manifest.guidance, release.tokenizer_info_path, cache, internal_fault, self._observe_new_guide
        )
        self._guide_compiler.register(list(resolver.registered.values()))
        self._ledger.open()
        gc.freeze()  # everything loaded so far stays, so garbage collections can skip it

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; None for a request that waits for the guide compiler."""
        began_ns = time.perf_counter_ns()
        admission_error = self._admission_error()
        batch = [self._prepare(request, admission_error) for request in requests]
        self._record(batch)
        responses = [self._respond(pending) for pending in batch]
        self._log.flush()
        self._observe_overhead(batch, began_ns)
        return responses

    def finalize(self) -> None:
        """Stop the guide compiler and its sandbox."""
        self._guide_compiler.close()

    def _admission_error(self) -> PolicyError | None:
        try:
            return self._ledger.admission_error()
        except BaseException as error:
            return as_policy_error(error)

    def _prepare(self, request: Any, admission_error: PolicyError | None) -> _PendingRequest:
        prepared = self._run(request, admission_error)
        pending = _PendingRequest(request, prepared.records, prepared.engine_rows)
        try:
            if prepared.error is not None:
                raise prepared.error
            pending.set_guides(self._look_up_guides(pending.engine_rows))
        except BaseException as error:
            pending.reject(as_policy_error(error))
        return pending

    def _run(self, request: Any, admission_error: PolicyError | None) -> PreparedRequest:
        """The prepared request. One that can't be read has one record, with nothing but its id."""
        request_id = ""
        try:
            request_id = loggable(request.request_id())
            inputs, parameters = read_inputs(request), read_parameters(request)
            return self._step.run(inputs, parameters, request_id, admission_error, self._ledger.overload_error)
        except BaseException as error:
            return PreparedRequest([RowRecord(request_id=request_id)], [], error)

    def _record(self, batch: list[_PendingRequest]) -> None:
        """Write the batch into the ledger; requests that can't be written are rejected."""
        try:
            recorded = self._ledger.record([pending.records for pending in batch])
        except BaseException as error:
            policy_error = as_policy_error(error)
            for pending in batch:
                pending.reject(policy_error)
            return
        for pending, records in zip(batch, recorded, strict=True):
            pending.records = records
            if pending.error is None and records[0].code:
                pending.error = Unavailable(Code.OVERLOADED, records[0].code_detail)

    def _respond(self, pending: _PendingRequest) -> Any:
        """The response; None if the guide compiler answers the request later."""
        if pending.error is not None:
            return self._respond_with_error(pending, pending.error)
        try:
            rows_with_guides = zip(pending.engine_rows, pending.engine_guides, strict=True)
            missing = [row.guide for row, engine_guide in rows_with_guides if row.guide and not engine_guide]
            if not missing:
                return self._pack(pending)
            sender = pending.request.get_response_sender()
            self._guide_compiler.submit(
                missing, lambda error: self._respond_later(sender, pending, error), pending.records[0].tenant
            )
        except BaseException as error:
            return self._reject_admitted(pending, as_policy_error(error))
        return None

    def _respond_later(self, sender: Any, pending: _PendingRequest, error: PolicyError | None) -> None:
        """Runs on the guide compiler's thread, once all guides of the request are compiled or one is rejected."""
        try:
            if error is not None:
                raise error
            pending.set_guides(self._guides_in_memory(pending.engine_rows))
            response = self._pack(pending)
        except BaseException as exception:
            response = self._reject_admitted(pending, as_policy_error(exception))
            self._log.flush()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _reject_admitted(self, pending: _PendingRequest, error: PolicyError) -> Any:
        """Close the request's rows in the ledger and respond with the error."""
        pending.reject(error)
        try:
            self._ledger.reject(pending.records)
        except BaseException as exception:
            error = as_policy_error(exception)
            pending.reject(error)
        return self._respond_with_error(pending, error)

    def _respond_with_error(self, pending: _PendingRequest, error: PolicyError) -> Any:
        for record in pending.records:
            self._log.add(record)
        return error_response(error)

    def _pack(self, pending: _PendingRequest) -> Any:
        tensors = self._step.pack(pending.records, pending.engine_rows, pending.engine_guides)
        return build_response(self._tensors, tensors)

    def _guides_in_memory(self, rows: list[EngineRow]) -> list[EngineGuide | None]:
        return [self._guide_compiler.lookup(row.guide) if row.guide else None for row in rows]

    def _look_up_guides(self, rows: list[EngineRow]) -> list[EngineGuide | None]:
        engine_guides = self._guides_in_memory(rows)
        num_hits = len(engine_guides) - engine_guides.count(None)
        if num_hits and (metrics := self._ledger.metrics):
            metrics.guide_cache["hit"].inc(num_hits)
        return engine_guides

    def _observe_new_guide(self, report: GuideReport | None) -> None:
        """Count a guide that was not in memory: compiled now (with its report), or read from the cache file (None).

        A guide that compiled gets a line in the log. One that is rejected has the lines of its requests.
        """
        if metrics := self._ledger.metrics:
            metrics.guide_cache["miss" if report else "file"].inc()
            if report:
                metrics.guide_compile_ms.observe(report.compile_ms)
                if report.mask_ms:
                    metrics.guide_mask_ms.observe(report.mask_ms)
        if report and not report.code:
            write_lines([_guide_line(report)])

    def _observe_overhead(self, batch: list[_PendingRequest], began_ns: int) -> None:
        if metrics := self._ledger.metrics:
            overhead_us = (time.perf_counter_ns() - began_ns) // 1_000
            for pending in batch:
                if not pending.records[0].is_canary:
                    metrics.overhead_us["preprocess"].observe(overhead_us)


def _guide_line(report: GuideReport) -> dict[str, Any]:
    return {
        "event": "guide_compiled",
        "schema_id": report.schema_id,
        "backend": report.backend,
        "compile_ms": round(report.compile_ms, 1),
        "mask_ms": round(report.mask_ms, 3),
    }


def _guide_cache_context(manifest: Manifest, backends: tuple[str, ...]) -> str:
    """Everything besides the guide that a cached report depends on. A registered schema is planned more exactly."""
    versions = [f"{name} {metadata.version(name)}" for name in backends]
    guidance = manifest.guidance.model_dump_json()
    return "\n".join((manifest.tokenizer.info_hash, *versions, PLANNER_VERSION, guidance, *sorted(manifest.schemas)))
