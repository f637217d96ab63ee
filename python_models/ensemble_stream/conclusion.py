"""How a stream ends: with an answer, with an error that pays for what was generated, or with one that costs nothing."""

from __future__ import annotations

from typing import NamedTuple

from engine_process.messages import End
from ensemble_stream.stream import Stream
from llm_policy.errors import Cancelled, Code, PolicyError, create_error
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.steps.postprocess import Answer, Postprocess, withheld

_ANSWERED = ("stop", "length", "deadline")


class Conclusion(NamedTuple):
    """The row as the ledger closes it, and the answer or the error of its client."""

    record: RowRecord
    answer: Answer | None = None
    error: PolicyError | None = None

    def withheld(self, error: PolicyError) -> Conclusion:
        """The same stream, whose row could not be closed: its client gets an error instead of the last response."""
        return Conclusion(rejected([self.record], error.code)[0]._replace(is_cut=False), None, error)


def conclude(postprocess: Postprocess, stream: Stream) -> Conclusion:
    """The conclusion of a stream that has an `end`."""
    end = stream.end or End(0, "error", Code.INTERNAL.value, "the engine gave no end")
    num_tokens = max(end.num_output_tokens, len(stream.completion_ids))
    if end.reason not in _ANSWERED and not num_tokens:
        error = _error(end)
        return Conclusion(rejected([stream.record], error.code)[0], None, error)
    answer = _answer(postprocess, stream, end, num_tokens)
    if end.reason in _ANSWERED:
        if late := postprocess.deadline_error([answer], stream.request.timeout_us):
            return _cut(answer, late)
        return Conclusion(answer.record, answer)
    return _cut(answer, _error(end))


def _answer(postprocess: Postprocess, stream: Stream, end: End, num_tokens: int) -> Answer:
    clocks = (end.arrival_ns, end.first_scheduled_ns, end.first_token_ns, end.last_token_ns)
    prompt_ids = stream.request.prompt_token_ids if stream.record.includes_prompt else []
    return postprocess.answer(stream.record, prompt_ids + stream.completion_ids, num_tokens, clocks)


def _cut(answer: Answer, error: PolicyError) -> Conclusion:
    return Conclusion(withheld([answer], error.code)[0].record, None, error)


def _error(end: End) -> PolicyError:
    if end.reason == "cancelled" and not end.code:
        return Cancelled(Code.CANCELLED, "the client cancelled the request")
    try:
        return create_error(Code(end.code), end.text or "the engine ended the request")
    except ValueError:
        return create_error(Code.INTERNAL, "the engine ended the request")
