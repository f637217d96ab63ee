"""The `postprocess` model: the engine's tokens in, answers out, each row closed in the ledger first."""

from __future__ import annotations

import gc
import time
from typing import Any

from llm_policy.errors import PolicyError
from llm_policy.ledger.ledger import Settlement
from llm_policy.steps.ledger_writer import LedgerWriter, boot_id
from llm_policy.steps.postprocess import Answer, Postprocess
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import arrays_of, open_release, open_row, respond, state_directory
from llm_policy.triton.refusals import internal_fault, refusal_of, refuse
from llm_policy.triton.request_lines import settled_line, withdrawn_line
from llm_policy.triton.request_log import RequestLog
from llm_policy.triton.tensor_cache import TensorCache


class PostprocessModel:
    """The `postprocess` model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release; whatever is wrong with it keeps the model from loading and says why."""
        release = open_release()
        self._step = Postprocess(release.manifest, Tokenizer.load(release.tokenizer_dir))
        self._cache = TensorCache()
        self._books = LedgerWriter(state_directory(), release.manifest, boot_id())
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
        answers = [answer for answers in batch for answer in answers]
        for answer in answers:
            self._log.add("request", **settled_line(answer))
        self._log.flush()
        self._observe(answers, began_ns)
        return responses

    def _answer(self, request: Any) -> tuple[list[Answer], Any]:
        """The answers of one request and the response that holds them; no answers where it failed."""
        try:
            answers = self._step.run(arrays_of(request))
            return answers, respond(self._cache, self._step.pack(answers, set(request.requested_output_names())))
        except BaseException as error:
            refusal = refusal_of(error)
            self._give_up(request, refusal)
            return [], refuse(refusal)

    def _give_up(self, request: Any, refusal: PolicyError) -> None:
        """Close the rows of a request that failed here, as far as it can be told which they are."""
        try:
            decisions = self._step.decisions(arrays_of(request))
            for decision in decisions:
                self._log.add("request", **withdrawn_line(decision, refusal))
            self._books.refuse([open_row(decision) for decision in decisions], refusal.code.value)
        except BaseException as error:
            refusal_of(error)

    def _settle(self, batch: list[list[Answer]], responses: list[Any]) -> list[Any]:
        """Close the answered rows in one transaction; an answer that can't be written down is not given."""
        try:
            found = iter(self._books.settle([_settlement(answer) for answers in batch for answer in answers]))
        except BaseException as error:
            fault = refusal_of(error)
            return [
                self._withdraw(batch, number, fault) if batch[number] else response
                for number, response in enumerate(responses)
            ]
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

    def _observe(self, answers: list[Answer], began_ns: int) -> None:
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


def _settlement(answer: Answer) -> Settlement:
    decision = answer.decision
    return Settlement(
        *(decision.ledger_id, decision.request_id, decision.tenant, decision.task, decision.schema_id),
        *(decision.is_canary, decision.num_prompt_tokens, answer.num_output_tokens),
        *(answer.cost_nano_usd, answer.queue_delay_us, answer.flags),
    )
