"""Closes the rows of streams that ended in the ledger. It runs on a thread of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble_stream.conclusion import Conclusion, conclude
from ensemble_stream.stream import Stream
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.steps.ledger_writer import LedgerWriter
from llm_policy.steps.postprocess import Postprocess
from llm_policy.triton.error_responses import as_policy_error, internal_fault
from llm_policy.triton.request_log import RequestLog


class StreamCloser:
    """Finds the conclusion of each stream, writes it into the ledger, the log and the metrics, and returns it."""

    def __init__(self, postprocess: Postprocess, ledger: LedgerWriter, log: RequestLog) -> None:
        self._postprocess, self._ledger, self._log = postprocess, ledger, log

    def close(self, streams: Sequence[Stream]) -> list[Conclusion]:
        """One conclusion per stream, in their order. A stream whose row can't be closed ends with an error."""
        conclusions = self._close_rows([self._conclude(stream) for stream in streams])
        for conclusion in conclusions:
            self._log.add(conclusion.record)
            self._observe(conclusion)
        self._log.flush()
        return conclusions

    def _conclude(self, stream: Stream) -> Conclusion:
        try:
            return conclude(self._postprocess, stream)
        except BaseException as exception:
            error = as_policy_error(exception)
            return Conclusion(rejected([stream.record], error.code)[0], None, error)

    def _close_rows(self, conclusions: list[Conclusion]) -> list[Conclusion]:
        """Settle what was generated and reject the rest: two transactions, each of which may fail alone."""
        settled = iter(self._settle([conclusion for conclusion in conclusions if _is_used(conclusion.record)]))
        refused = iter(self._reject([conclusion for conclusion in conclusions if not _is_used(conclusion.record)]))
        return [next(settled if _is_used(conclusion.record) else refused) for conclusion in conclusions]

    def _settle(self, conclusions: list[Conclusion]) -> list[Conclusion]:
        if not conclusions:
            return []
        try:
            found = self._ledger.settle([conclusion.record for conclusion in conclusions])
        except BaseException as exception:
            return _withheld(conclusions, exception)
        return [
            conclusion if is_found else conclusion.withheld(internal_fault(LookupError("no open row")))
            for conclusion, is_found in zip(conclusions, found, strict=True)
        ]

    def _reject(self, conclusions: list[Conclusion]) -> list[Conclusion]:
        if not conclusions:
            return []
        try:
            self._ledger.reject([conclusion.record for conclusion in conclusions])
        except BaseException as exception:
            return _withheld(conclusions, exception)
        return conclusions

    def _observe(self, conclusion: Conclusion) -> None:
        metrics = self._ledger.metrics
        if metrics is not None and conclusion.answer is not None and not conclusion.record.is_canary:
            metrics.observe_answer(conclusion.record)


def _is_used(record: RowRecord) -> bool:
    """Whether the row pays for tokens."""
    return record.is_cut or not record.code


def _withheld(conclusions: list[Conclusion], exception: BaseException) -> list[Conclusion]:
    error = as_policy_error(exception)
    return [conclusion.withheld(error) for conclusion in conclusions]
