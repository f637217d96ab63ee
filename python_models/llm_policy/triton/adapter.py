"""Between Triton's Python backend and the steps: tensors in, tensors out, one declared error per refused request.

One exception that leaves `execute` would fail every request of its batch and show the client file paths; here every
fault is caught at its own request. Nothing in this module decides anything about a request.

All requests of one `execute` share one transaction of the ledger, committed before the first of them is answered.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy import __version__
from llm_policy.bookkeeper import Bookkeeper, boot_id
from llm_policy.errors import Code, InvalidRequest, PolicyError
from llm_policy.guidance.desk import GuideDesk
from llm_policy.guidance.guide import GuideResolver
from llm_policy.guidance.guide_report import GuidePlan, GuideReport
from llm_policy.guidance.verdict_cache import VerdictCache
from llm_policy.ledger import Entry, OpenRow, Settlement
from llm_policy.manifest import Manifest
from llm_policy.release import Release, ReleaseError
from llm_policy.request import Array, Column
from llm_policy.steps.decision import Decision
from llm_policy.steps.facts import RequestFacts
from llm_policy.steps.postprocess import Answer, Postprocess
from llm_policy.steps.preprocess import Preprocess, Row
from llm_policy.tokenizer import Tokenizer
from llm_policy.triton.refusals import internal_fault, refusal_of, refuse
from llm_policy.triton.request_lines import refused_lines, settled_line, withdrawn_line
from llm_policy.triton.request_log import RequestLog
from llm_policy.triton.tensor_cache import TensorCache, new_tensor

RELEASE_DIR = "LLMSTACK_RELEASE_DIR"
STATE_DIR = "LLMSTACK_STATE_DIR"
CANARY_TOKEN = "LLMSTACK_CANARY_TOKEN"  # noqa: S105 - a variable's name
DEFAULT_RELEASE_DIR = "artifacts/current"
# Values that differ from request to request: keeping their tensors would only push out those that repeat.
NEVER_REPEATS = frozenset(
    ("input_ids", "policy_decision", "text_output", "queue_delay_us", "time_to_first_token_us", "total_time_us")
)


@dataclass
class _Draft:
    """One request in preprocess: admitted until `refusal` says otherwise; `plans` has None for an unknown guide."""

    request: Any
    facts: RequestFacts
    rows: list[Row] = field(default_factory=list)
    plans: list[GuidePlan | None] = field(default_factory=list)
    refusal: PolicyError | None = None
    is_open: bool = False  # its rows stand in the ledger as admitted

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

    def open_rows(self) -> list[OpenRow]:
        """Its admitted rows, to close them."""
        return [_open_row(row.decision) for row in self.rows]


class PreprocessModel:
    """The `preprocess` model.

    Requests whose guides are known answer from `execute`; the others are answered from the desk's one thread, so a
    new guide's compile holds up nobody else.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release; whatever is wrong with it keeps the model from loading and says why."""
        release, state_dir = _open_release(), _state_dir()
        manifest = release.manifest
        resolver = GuideResolver(
            manifest.guidance, {name: release.schema_text(name) for name in sorted(manifest.schemas)}
        )
        tokenizer = Tokenizer.load(release.tokenizer_dir)
        self._step = Preprocess(manifest, tokenizer, resolver, os.environ.get(CANARY_TOKEN, ""))
        self._cache = TensorCache()
        self._books = Bookkeeper(state_dir, manifest, boot_id())
        self._log = RequestLog()
        cache = VerdictCache(state_dir / "guides.db", _verdict_context(manifest))
        self._desk = GuideDesk(
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
        responses = [self._respond(draft) for draft in drafts]
        self._take_back([draft for draft in drafts if draft.refusal and draft.is_open])
        responses = [refuse(d.refusal) if d.refusal else r for d, r in zip(drafts, responses, strict=True)]
        self._finish(drafts, began_ns)
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
        draft = _Draft(request, RequestFacts())
        try:
            draft.facts = RequestFacts.of(request.request_id())
            draft.rows = self._step.run(_arrays(request), _parameters(request), draft.facts, closed)
            draft.plans = self._plans(draft.rows)
            for known, plan in zip(draft.facts.rows, draft.plans, strict=True):
                known.schema_id = plan.schema_id if plan else known.schema_id
        except BaseException as error:
            draft.refusal = refusal_of(error)
        return draft

    def _enter(self, drafts: list[_Draft]) -> None:
        """Write the batch into the ledger; who can't be written down is refused."""
        try:
            ids = self._books.enter([draft.entries() for draft in drafts])
        except BaseException as error:
            fault = refusal_of(error)
            for draft in drafts:
                draft.refusal = fault
            return
        for draft, row_ids in zip(drafts, ids, strict=True):
            if row_ids is None:
                draft.refusal = self._books.overload()
            elif draft.refusal is None:
                draft.is_open = True
                draft.rows = [_numbered(row, row_id) for row, row_id in zip(draft.rows, row_ids, strict=True)]

    def _respond(self, draft: _Draft) -> Any:
        if draft.refusal:
            return None
        try:
            unknown = [row.guide for row, plan in zip(draft.rows, draft.plans, strict=True) if row.guide and not plan]
            if not unknown:
                return self._pack(draft)
            sender = draft.request.get_response_sender()
            self._desk.prove(unknown, lambda refusal: self._answer_late(sender, draft, refusal))
        except BaseException as error:
            draft.refusal = refusal_of(error)
        return None

    def _answer_late(self, sender: Any, draft: _Draft, refusal: PolicyError | None) -> None:
        """On the desk's thread: its guides are known now."""
        response = None
        try:
            if refusal is not None:
                raise refusal
            draft.plans = self._plans(draft.rows)
            response = self._pack(draft)
        except BaseException as error:
            draft.refusal = refusal_of(error)
            self._take_back([draft])
            self._log_refused(draft)
            self._log.flush()
            response = refuse(draft.refusal)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _take_back(self, drafts: list[_Draft]) -> None:
        """Close rows that were admitted and can't be served after all."""
        for draft in drafts:
            draft.refusal = self._refuse_rows(draft.open_rows(), draft.refusal) if draft.refusal else None

    def _refuse_rows(self, rows: list[OpenRow], refusal: PolicyError) -> PolicyError:
        try:
            self._books.refuse(rows, refusal.code.value)
        except PolicyError as fault:
            return fault
        return refusal

    def _plans(self, rows: list[Row]) -> list[GuidePlan | None]:
        plans = [self._desk.verdict(row.guide) if row.guide else None for row in rows]
        if metrics := self._books.metrics:
            num_hits = len(plans) - plans.count(None)
            if num_hits:
                metrics.guide_cache["hit"].inc(num_hits)
        return plans

    def _observe_verdict(self, report: GuideReport | None) -> None:
        if metrics := self._books.metrics:
            metrics.guide_cache["miss" if report else "file"].inc()
            if report:
                metrics.guide_compile_ms.observe(report.compile_ms)

    def _pack(self, draft: _Draft) -> Any:
        return _response(_tensors(self._cache, self._step.pack(draft.rows, draft.plans)))

    def _finish(self, drafts: list[_Draft], began_ns: int) -> None:
        for draft in drafts:
            self._log_refused(draft)
        self._log.flush()
        if metrics := self._books.metrics:
            overhead_us = (time.perf_counter_ns() - began_ns) // 1_000
            for draft in drafts:
                if not draft.facts.is_canary:
                    metrics.overhead_us["preprocess"].observe(overhead_us)

    def _log_refused(self, draft: _Draft) -> None:
        if draft.refusal:
            for line in refused_lines(draft.facts, draft.refusal):
                self._log.add("request", **line)


class PostprocessModel:
    """The `postprocess` model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release; whatever is wrong with it keeps the model from loading and says why."""
        release = _open_release()
        self._step = Postprocess(release.manifest, Tokenizer.load(release.tokenizer_dir))
        self._cache = TensorCache()
        self._books = Bookkeeper(_state_dir(), release.manifest, boot_id())
        self._books.open()
        self._log = RequestLog()
        gc.freeze()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        began_ns = time.perf_counter_ns()
        batch: list[list[Answer]] = []
        responses: list[Any] = []
        for request in requests:
            answers, response = self._answer(request)
            batch.append(answers)
            responses.append(response)
        responses = self._settle(batch, responses)
        self._finish([answer for answers in batch for answer in answers], len(requests), began_ns)
        return responses

    def _answer(self, request: Any) -> tuple[list[Answer], Any]:
        """The answers of one request and the response that holds them; no answers where it failed."""
        try:
            answers = self._step.run(_arrays(request))
            tensors = self._step.pack(answers, set(request.requested_output_names()))
            return answers, _response(_tensors(self._cache, tensors))
        except BaseException as error:
            refusal = refusal_of(error)
            self._give_up(request, refusal)
            return [], refuse(refusal)

    def _give_up(self, request: Any, refusal: PolicyError) -> None:
        """Close the rows of a request that failed here, as far as it can be told which they are."""
        try:
            decisions = self._step.decisions(_arrays(request))
            self._books.refuse([_open_row(decision) for decision in decisions], refusal.code.value)
            for decision in decisions:
                self._log.add("request", **withdrawn_line(decision, refusal))
        except BaseException as error:
            refusal_of(error)

    def _settle(self, batch: list[list[Answer]], responses: list[Any]) -> list[Any]:
        """Close the answered rows in one transaction; an answer that can't be written down is not given."""
        try:
            found = iter(self._books.settle([_settlement(answer) for answers in batch for answer in answers]))
        except BaseException as error:
            fault = refusal_of(error)
            return [self._withdraw(batch, number, fault) for number in range(len(batch))]
        settled = [[next(found) for _ in answers] for answers in batch]
        for number, rows in enumerate(settled):
            if not all(rows):
                responses[number] = self._withdraw(batch, number, internal_fault(LookupError("no open row")))
        return responses

    def _withdraw(self, batch: list[list[Answer]], number: int, fault: PolicyError) -> Any:
        for answer in batch[number]:
            self._log.add("request", **withdrawn_line(answer.decision, fault))
        batch[number] = []
        return refuse(fault)

    def _finish(self, answers: list[Answer], num_requests: int, began_ns: int) -> None:
        for answer in answers:
            self._log.add("request", **settled_line(answer))
        self._log.flush()
        metrics = self._books.metrics
        if metrics is None:
            return
        overhead_us = (time.perf_counter_ns() - began_ns) // 1_000
        for answer in answers:
            if answer.decision.is_canary:
                continue
            if answer.decision.row_number == 0:
                metrics.overhead_us["postprocess"].observe(overhead_us)
            metrics.observe_answer(
                answer.queue_delay_us, answer.time_to_first_token_us, answer.total_time_us, answer.num_output_tokens
            )


def _open_release() -> Release:
    return Release.open(os.environ.get(RELEASE_DIR, DEFAULT_RELEASE_DIR)).verify_files()


def _state_dir() -> Path:
    """Where the ledger is.

    Raises:
        ReleaseError: nobody said where.
    """
    directory = os.environ.get(STATE_DIR)
    if not directory:
        raise ReleaseError(f"{STATE_DIR} is not set: nothing is served that can't be written into a ledger")
    return Path(directory)


def _verdict_context(manifest: Manifest) -> str:
    """All that verdicts on guides depend on besides the guide."""
    limits = manifest.guidance.limits.model_dump_json()
    return "\n".join((manifest.tokenizer.info_hash, metadata.version("xgrammar"), __version__, limits))


def _parameters(request: Any) -> str:
    """The request's parameters as JSON text, forwarded headers among them."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError:
        raise InvalidRequest(Code.INVALID_HEADER, "a header holds bytes that are no printable ASCII") from None


def _arrays(request: Any) -> dict[str, Array]:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _tensors(cache: TensorCache, columns: Mapping[str, Array | Column]) -> list[Any]:
    return [
        new_tensor(name, values) if name in NEVER_REPEATS else cache.tensor(name, values)
        for name, values in columns.items()
    ]


def _response(tensors: list[Any]) -> Any:
    return pb_utils.InferenceResponse(tensors)


def _numbered(row: Row, ledger_id: int) -> Row:
    return row._replace(decision=row.decision._replace(ledger_id=ledger_id))


def _open_row(decision: Decision) -> OpenRow:
    return OpenRow(decision.ledger_id, decision.row_number, decision.task, decision.is_canary)


def _settlement(answer: Answer) -> Settlement:
    decision = answer.decision
    return Settlement(
        *(decision.ledger_id, decision.row_number, decision.request_id, decision.tenant, decision.task),
        *(decision.schema_id, decision.is_canary, decision.num_prompt_tokens, answer.num_output_tokens),
        *(answer.cost_nano_usd, answer.queue_delay_us, answer.flags),
    )
