"""What stands before the engine for every request: the rules, the ledger's row, and the compiled guides.

`preprocess` answers an admitted request with the engine's tensors; `ensemble_stream` sends it to the engine itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from llm_policy import PLANNER_VERSION
from llm_policy.errors import Code, PolicyError, create_error
from llm_policy.guidance.backends.names import usable_backends
from llm_policy.guidance.compile.compile_queue import GuideCompiler
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.guide import EngineGuide, GuideResolver
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.release.manifest import Manifest
from llm_policy.release.release import Release
from llm_policy.rules.headers import loggable
from llm_policy.rules.row_input import Array
from llm_policy.steps.column import Column
from llm_policy.steps.ledger_writer import LedgerWriter
from llm_policy.steps.preprocess import EngineRow, PreparedRequest, Preprocess, with_schema_ids
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import read_inputs, read_parameters
from llm_policy.triton.arrival import Arrival
from llm_policy.triton.error_responses import as_policy_error, internal_fault
from llm_policy.triton.request_log import RequestLog, write_lines

CANARY_TOKEN = "LLMSTACK_CANARY_TOKEN"  # noqa: S105 - a variable's name

REQUIRE_API_KEYS = "LLMSTACK_REQUIRE_API_KEYS"
MAX_KNOWN_KEYS = 4_096
UNKNOWN_TENANT = "?"
"""Stands for the clients whose keys are not known; no tenant has this name."""

Refusal = Callable[[RowRecord], PolicyError | None]
"""Why every request of this sender is refused now; None if it is not."""


@dataclass
class PendingRequest:
    """A request that is not answered yet, admitted unless it has an `error`.

    `engine_guides` has one entry per row: the compiled guide, or None for an unguided row or a guide not compiled yet.
    """

    arrival: Arrival
    records: list[RowRecord]
    engine_rows: list[EngineRow] = field(default_factory=list)
    engine_guides: list[EngineGuide | None] = field(default_factory=list)
    error: PolicyError | None = None

    @property
    def missing_guides(self) -> list[Any]:
        """The guides that are not compiled yet."""
        rows_with_guides = zip(self.engine_rows, self.engine_guides, strict=True)
        return [row.guide for row, engine_guide in rows_with_guides if row.guide and not engine_guide]

    def set_guides(self, engine_guides: list[EngineGuide | None]) -> None:
        """Take over the compiled guides and their schema ids."""
        self.engine_guides = engine_guides
        self.records = with_schema_ids(self.records, engine_guides)

    def mark_new_guides(self) -> None:
        """Note in the records which clients' guides have to be compiled first."""
        self.records = [
            record._replace(is_new_guide=True) if row.guide and not row.guide.name and not engine_guide else record
            for record, row, engine_guide in zip(self.records, self.engine_rows, self.engine_guides, strict=True)
        ]

    def reject(self, error: PolicyError) -> None:
        """Reject the request with `error`, which replaces an earlier one."""
        self.error = error
        self.records = rejected(self.records, error.code)


class Admission:
    """Admits Triton's requests by the rules of one release; every row is in the ledger before anything else happens.

    Thread-safe but for `admit`, which one thread calls.
    """

    def __init__(
        self,
        release: Release,
        state_dir: Path,
        ledger: LedgerWriter,
        tokenizer: Tokenizer,
        *,
        streams: bool,
        waits_for_cache: bool = False,
    ) -> None:
        """`waits_for_cache`: another model compiles the registered schemas (`GuideCompiler`)."""
        manifest = release.manifest
        resolver = GuideResolver(
            manifest.guidance, {name: release.schema_text(name) for name in sorted(manifest.schemas)}
        )
        self._step = Preprocess(
            manifest,
            tokenizer,
            resolver,
            os.environ.get(CANARY_TOKEN, ""),
            streams=streams,
            requires_key=os.environ.get(REQUIRE_API_KEYS) == "1",
        )
        self._ledger = ledger
        self._tenants: LRUCache[bytes, str] = LRUCache(MAX_KNOWN_KEYS)
        self.log = RequestLog()
        backends = usable_backends(manifest.guidance.backend, os.environ)
        cache = GuideCache(state_dir / "guides.db", _guide_cache_context(manifest, backends))
        self._guide_compiler = GuideCompiler(
            manifest.guidance,
            release.tokenizer_info_path,
            cache,
            internal_fault,
            self._observe_new_guide,
            waits_for_cache=waits_for_cache,
        )
        self._guide_compiler.register(list(resolver.registered.values()))

    def close(self) -> None:
        """Stop the guide compiler and its sandbox."""
        self._guide_compiler.close()

    def read(self, request: Any) -> Arrival:
        """Everything that `request` holds. Triton's thread calls this."""
        outputs = frozenset(request.requested_output_names())
        arrival = Arrival(request.get_response_sender(), outputs, int(request.timeout()), read_s=time.monotonic())
        try:
            arrival = arrival._replace(request_id=loggable(request.request_id()))
            arrival = arrival._replace(check=self._step.check(read_parameters(request)))
            return arrival._replace(inputs=read_inputs(request))
        except BaseException as error:
            return arrival._replace(fault=error)

    def tenant_of(self, arrival: Arrival) -> str:
        """The tenant whose turn the request waits for: that of its key, or else the one that the client claims.

        All clients whose key was not valid before share a turn.
        """
        digest = arrival.check.digest
        return arrival.check.sender.tenant if digest is None else self._tenants.get(digest, UNKNOWN_TENANT)

    def admit(self, arrivals: Sequence[Arrival]) -> list[PendingRequest]:
        """Apply the rules to each request and write all of them into the ledger, in one transaction."""
        admission_error, refusal = self._admission_error(), self._refusals_of_batch()
        batch = [self._prepare(arrival, admission_error, refusal) for arrival in arrivals]
        self._record(batch)
        return batch

    def compile_guides(self, pending: PendingRequest, then: Callable[[PolicyError | None], None]) -> None:
        """Compile the missing guides; `then` runs on the guide compiler's thread, with the error of one it rejects.

        Raises:
            PolicyError: there is no room for another guide.
        """

        def finish(error: PolicyError | None) -> None:
            try:
                if error is None:
                    pending.set_guides(self._guides_in_memory(pending.engine_rows))
            except BaseException as exception:
                error = as_policy_error(exception)
            then(error)

        self._guide_compiler.submit(pending.missing_guides, finish, pending.records[0].tenant)

    def reject(self, pending: PendingRequest, error: PolicyError) -> PolicyError:
        """Close the request's rows in the ledger; returns the error that its client gets."""
        pending.reject(error)
        try:
            self._ledger.reject(pending.records)
        except BaseException as exception:
            error = as_policy_error(exception)
            pending.reject(error)
        self.add_to_log(pending)
        return error

    def add_to_log(self, pending: PendingRequest) -> None:
        """Add the lines of a rejected request to the log."""
        for record in pending.records:
            self.log.add(record, pending.error)

    def pack(self, pending: PendingRequest) -> dict[str, Array | Column]:
        """The engine's tensors."""
        return self._step.pack(pending.records, pending.engine_rows, pending.engine_guides)

    def observe_overhead(self, step: str, batch: list[PendingRequest], began_ns: int) -> None:
        """Count the time since `began_ns`, on the performance counter, that `step` took for each request."""
        if metrics := self._ledger.metrics:
            overhead_us = (time.perf_counter_ns() - began_ns) // 1_000
            for pending in batch:
                if not pending.records[0].is_canary:
                    metrics.overhead_us[step].observe(overhead_us)

    def _admission_error(self) -> PolicyError | None:
        try:
            return self._ledger.admission_error()
        except BaseException as error:
            return as_policy_error(error)

    def _refusals_of_batch(self) -> Refusal:
        """Looks up the refusal of each sender once: the requests of a batch came at the same time."""
        found: dict[tuple[str, bool], PolicyError] = {}

        def refusal(sender: RowRecord) -> PolicyError | None:
            key = (sender.tenant, sender.is_authenticated)
            error = found.get(key) or self._ledger.refusal(sender)
            if error is not None:
                found[key] = error
            return error

        return refusal

    def _prepare(self, arrival: Arrival, admission_error: PolicyError | None, refusal: Refusal) -> PendingRequest:
        prepared = self._run(arrival, admission_error, refusal)
        self._note_tenant(arrival, prepared.records[0])
        pending = PendingRequest(arrival, prepared.records, prepared.engine_rows)
        try:
            if prepared.error is not None:
                raise prepared.error
            pending.set_guides(self._look_up_guides(pending.engine_rows))
            if pending.missing_guides:
                pending.mark_new_guides()
        except BaseException as error:
            pending.reject(as_policy_error(error))
        return pending

    def _run(self, arrival: Arrival, admission_error: PolicyError | None, refusal: Refusal) -> PreparedRequest:
        """The prepared request. One that can't be read has one record, with nothing but its id."""
        request_id = arrival.request_id
        try:
            if arrival.fault is not None:
                raise arrival.fault
            return self._step.run(
                arrival.inputs,
                arrival.check,
                self._ledger,
                request_id,
                arrival.refusal or admission_error,
                refusal,
            )
        except BaseException as error:
            return PreparedRequest([RowRecord(request_id=request_id)], [], error)

    def _note_tenant(self, arrival: Arrival, sender: RowRecord) -> None:
        if sender.is_authenticated and arrival.check.digest is not None:
            self._tenants[arrival.check.digest] = sender.tenant

    def _record(self, batch: list[PendingRequest]) -> None:
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
                pending.error = create_error(Code(records[0].code), records[0].code_detail)

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
