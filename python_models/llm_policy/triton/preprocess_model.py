"""The `preprocess` model: requests in, the engine's tensors or a refusal out, each row in the ledger first."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy import __version__
from llm_policy.errors import PolicyError
from llm_policy.guidance.compile.compile_queue import GuideCompiler
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuidePlan, GuideReport
from llm_policy.guidance.guide import GuideResolver
from llm_policy.ledger.ledger import Entry
from llm_policy.release.manifest import Manifest
from llm_policy.steps.ledger_writer import LedgerWriter, boot_id
from llm_policy.steps.preprocess import PreparedRow, Preprocess
from llm_policy.steps.request_context import RequestContext
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import arrays_of, open_release, open_row, parameters_of, respond, state_directory
from llm_policy.triton.refusals import internal_fault, refusal_of, refuse
from llm_policy.triton.request_lines import refused_lines
from llm_policy.triton.request_log import RequestLog
from llm_policy.triton.tensor_cache import TensorCache

CANARY_TOKEN = "LLMSTACK_CANARY_TOKEN"  # noqa: S105 - a variable's name


@dataclass
class _Draft:
    """One request: admitted unless `refusal` says otherwise; `plans` has None for a guide that nobody knows yet."""

    request: Any
    facts: RequestContext
    rows: list[PreparedRow] = field(default_factory=list)
    plans: list[GuidePlan | None] = field(default_factory=list)
    refusal: PolicyError | None = None

    def entries(self) -> list[Entry]:
        """Its rows for the ledger."""
        facts, code = self.facts, self.refusal.code.value if self.refusal else ""
        return [
            Entry(
                *(facts.request_id, facts.tenant, row.task, row.schema_id, facts.is_canary),
                *(row.num_prompt_tokens, row.projected_nano_usd, row.prompt_nano_usd, code),
            )
            for row in facts.rows
        ]


class PreprocessModel:
    """The `preprocess` model.

    Requests whose guides are known answer from `execute`; the others are answered from the desk's one thread, so a
    new guide's compile holds up nobody else.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release; whatever is wrong with it keeps the model from loading and says why."""
        release, state_dir = open_release(), state_directory()
        manifest = release.manifest
        resolver = GuideResolver(
            manifest.guidance, {name: release.schema_text(name) for name in sorted(manifest.schemas)}
        )
        tokenizer = Tokenizer.load(release.tokenizer_dir)
        self._step = Preprocess(manifest, tokenizer, resolver, os.environ.get(CANARY_TOKEN, ""))
        self._cache = TensorCache()
        self._books = LedgerWriter(state_dir, manifest, boot_id())
        self._log = RequestLog()
        cache = GuideCache(state_dir / "guides.db", _verdict_context(manifest))
        self._desk = GuideCompiler(
            manifest.guidance, release.tokenizer_info_path, cache, internal_fault, self._observe_verdict
        )
        self._desk.register(list(resolver.registered.values()))
        self._books.open()
        gc.freeze()  # what is loaded now stays: no collection need look at it again

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, or None for those that wait at the desk."""
        began_ns = time.perf_counter_ns()
        closed = self._closed()
        drafts = [self._draft(request, closed) for request in requests]
        self._enter(drafts)
        responses = [self._answer(draft) for draft in drafts]
        self._log.flush()
        self._observe(drafts, began_ns)
        return responses

    def finalize(self) -> None:
        """Stop the desk and its sandbox."""
        self._desk.close()

    def _closed(self) -> PolicyError | None:
        try:
            return self._books.closed()
        except BaseException as error:
            return refusal_of(error)

    def _draft(self, request: Any, closed: PolicyError | None) -> _Draft:
        draft = _Draft(request, RequestContext())
        try:
            draft.facts = RequestContext.of(request.request_id())
            draft.rows = self._step.run(arrays_of(request), parameters_of(request), draft.facts, closed)
            draft.plans = self._plans(draft.rows)
            for known, plan in zip(draft.facts.rows, draft.plans, strict=True):
                known.schema_id = plan.schema_id if plan else known.schema_id
        except BaseException as error:
            draft.refusal = refusal_of(error)
        return draft

    def _enter(self, drafts: list[_Draft]) -> None:
        """Write the batch into the ledger; who can't be written down is refused."""
        try:
            entered = self._books.enter([draft.entries() for draft in drafts])
        except BaseException as error:
            fault = refusal_of(error)
            for draft in drafts:
                draft.refusal = fault
            return
        for draft, (ids, is_shed) in zip(drafts, entered, strict=True):
            for known, row_id in zip(draft.facts.rows, ids, strict=True):
                known.ledger_id = row_id
            if is_shed:
                draft.refusal = self._books.overload()
            elif draft.refusal is None:
                draft.rows = [_numbered(row, row_id) for row, row_id in zip(draft.rows, ids, strict=True)]

    def _answer(self, draft: _Draft) -> Any:
        """The response; None for a request that is the desk's from now on."""
        if draft.refusal is not None:
            return self._refuse(draft, draft.refusal)
        try:
            unknown = [row.guide for row, plan in zip(draft.rows, draft.plans, strict=True) if row.guide and not plan]
            if not unknown:
                return self._pack(draft.rows, draft.plans)
            sender = draft.request.get_response_sender()
            self._desk.prove(unknown, lambda refusal: self._answer_late(sender, draft, refusal))
        except BaseException as error:
            return self._take_back(draft, refusal_of(error))
        return None

    def _answer_late(self, sender: Any, draft: _Draft, refusal: PolicyError | None) -> None:
        """On the desk's thread: its guides are known now."""
        try:
            if refusal is not None:
                raise refusal
            plans = [self._desk.verdict(row.guide) if row.guide else None for row in draft.rows]
            response = self._pack(draft.rows, plans)
        except BaseException as error:
            response = self._take_back(draft, refusal_of(error))
            self._log.flush()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _take_back(self, draft: _Draft, refusal: PolicyError) -> Any:
        """Close rows that were admitted and can't be served after all."""
        try:
            self._books.refuse([open_row(row.decision) for row in draft.rows], refusal.code.value)
        except BaseException as error:
            refusal = refusal_of(error)
        return self._refuse(draft, refusal)

    def _refuse(self, draft: _Draft, refusal: PolicyError) -> Any:
        for line in refused_lines(draft.facts, refusal):
            self._log.add("request", **line)
        return refuse(refusal)

    def _pack(self, rows: list[PreparedRow], plans: list[GuidePlan | None]) -> Any:
        return respond(self._cache, self._step.pack(rows, plans))

    def _plans(self, rows: list[PreparedRow]) -> list[GuidePlan | None]:
        plans = [self._desk.verdict(row.guide) if row.guide else None for row in rows]
        num_hits = len(plans) - plans.count(None)
        if num_hits and (metrics := self._books.metrics):
            metrics.guide_cache["hit"].inc(num_hits)
        return plans

    def _observe_verdict(self, report: GuideReport | None) -> None:
        if metrics := self._books.metrics:
            metrics.guide_cache["miss" if report else "file"].inc()
            if report:
                metrics.guide_compile_ms.observe(report.compile_ms)

    def _observe(self, drafts: list[_Draft], began_ns: int) -> None:
        if metrics := self._books.metrics:
            overhead_us = (time.perf_counter_ns() - began_ns) // 1_000
            for draft in drafts:
                if not draft.facts.is_canary:
                    metrics.overhead_us["preprocess"].observe(overhead_us)


def _verdict_context(manifest: Manifest) -> str:
    """All that verdicts on guides depend on besides the guide."""
    limits = manifest.guidance.limits.model_dump_json()
    return "\n".join((manifest.tokenizer.info_hash, metadata.version("xgrammar"), __version__, limits))


def _numbered(row: PreparedRow, ledger_id: int) -> PreparedRow:
    return row._replace(decision=row.decision._replace(ledger_id=ledger_id))
