"""The `postprocess` model: the engine's tokens in, answers out; every row is closed in the ledger first."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_policy.errors import PolicyError
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.rules.row_input import Array
from llm_policy.steps.ledger_writer import LedgerWriter, boot_id
from llm_policy.steps.postprocess import Answer, Postprocess, withheld
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import build_response, open_release, read_inputs, state_directory
from llm_policy.triton.error_responses import as_policy_error, error_response, internal_fault
from llm_policy.triton.fair_worker import FairWorker
from llm_policy.triton.request_log import RequestLog
from llm_policy.triton.tensor_cache import TensorCache


class _Finished(NamedTuple):
    """An engine's response, read at once; `fault` says why it can't be read."""

    sender: Any
    outputs: frozenset[str]
    timeout_us: int
    inputs: Mapping[str, Array] = MappingProxyType({})
    records: Sequence[RowRecord] = ()
    fault: BaseException | None = None

    @property
    def tenant(self) -> str:
        """Whose answer it is."""
        return self.records[0].tenant if self.records else ""


class PostprocessModel:
    """The `postprocess` model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release. Any exception keeps the model from loading, with its text as the reason."""
        release = open_release()
        self._step = Postprocess(release.manifest, Tokenizer.load(release.tokenizer_dir))
        self._tensors = TensorCache()
        self._ledger = LedgerWriter(state_directory(), release.manifest, boot_id())
        self._ledger.open()
        self._log = RequestLog()
        self._worker = FairWorker(self._work, "postprocess")
        gc.freeze()  # everything loaded so far stays, so garbage collections can skip it

    def execute(self, requests: list[Any]) -> Sequence[Any]:
        """One response per request; None for a request that is answered later."""
        finished = [self._read(request) for request in requests]
        return self._worker.handle([each.tenant for each in finished], finished)

    def finalize(self) -> None:
        """Answer what waits."""
        self._worker.close()

    def _read(self, request: Any) -> _Finished:
        finished = _Finished(
            request.get_response_sender(), frozenset(request.requested_output_names()), int(request.timeout())
        )
        try:
            finished = finished._replace(inputs=read_inputs(request))
            return finished._replace(records=self._step.records(finished.inputs))
        except BaseException as error:
            return finished._replace(fault=error)

    def _work(self, requests: Sequence[_Finished]) -> list[Any]:
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
            self._log.add(answer.record)
        self._log.flush()
        self._observe(answers, began_ns)
        return responses

    def _answer(self, request: _Finished) -> tuple[list[Answer], Any]:
        """The answers of one request and its response; no answers if the request failed.

        The rows of a request that took too long get an error and are charged like answered ones.
        """
        try:
            if request.fault is not None:
                raise request.fault
            answers = self._step.run(request.inputs, request.records)
            if deadline_error := self._step.deadline_error(answers, request.timeout_us):
                return withheld(answers, deadline_error.code), error_response(deadline_error)
            columns = self._step.pack(answers, request.outputs)
            return answers, build_response(self._tensors, columns)
        except BaseException as error:
            policy_error = as_policy_error(error)
            self._reject_rows(request, policy_error)
            return [], error_response(policy_error)

    def _reject_rows(self, request: _Finished, policy_error: PolicyError) -> None:
        """Close the ledger rows of a request that failed here, if its records can be read."""
        try:
            records = rejected(request.records, policy_error.code)
            for record in records:
                self._log.add(record, policy_error)
            self._ledger.reject(records)
        except BaseException as error:
            as_policy_error(error)  # logs it

    def _settle(self, batch: list[list[Answer]], responses: list[Any]) -> list[Any]:
        """Close the answered rows in one transaction; answers that can't be recorded are withheld."""
        try:
            found = iter(self._ledger.settle([answer.record for answers in batch for answer in answers]))
        except BaseException as error:
            policy_error = as_policy_error(error)
            return [
                self._withhold(batch, number, policy_error) if batch[number] else response
                for number, response in enumerate(responses)
            ]
        settled = [[next(found) for _ in answers] for answers in batch]
        for number, rows in enumerate(settled):
            if not all(rows):
                responses[number] = self._withhold(batch, number, internal_fault(LookupError("no open row")))
        return responses

    def _withhold(self, batch: list[list[Answer]], number: int, policy_error: PolicyError) -> Any:
        """Drop the answers of one request from the batch and respond with the error."""
        for record in rejected((answer.record for answer in batch[number]), policy_error.code):
            self._log.add(record, policy_error)
        batch[number] = []
        return error_response(policy_error)

    def _observe(self, answers: list[Answer], began_ns: int) -> None:
        metrics = self._ledger.metrics
        if metrics is None:
            return
        overhead_us = (time.perf_counter_ns() - began_ns) // 1_000
        for record, _ in answers:
            if record.is_canary or record.code:
                continue
            if record.row_number == 0:
                metrics.overhead_us["postprocess"].observe(overhead_us)
            metrics.observe_answer(record)
