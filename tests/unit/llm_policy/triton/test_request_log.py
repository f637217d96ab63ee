"""The fields of a row's log line."""

from llm_policy.errors import Code, InvalidRequest
from llm_policy.steps.request_context import RequestContext, RowContext
from llm_policy.triton.request_log import rejected_lines


def test_each_row_of_a_rejected_request_has_a_line_with_its_ledger_id():
    context = RequestContext("r-1", "acme", rows=[RowContext("judge", ledger_id=7), RowContext("judge", ledger_id=8)])
    lines = rejected_lines(context, InvalidRequest(Code.UNKNOWN_SCHEMA, "no such schema"))
    assert [(line["ledger_id"], line["code"], line["outcome"]) for line in lines] == [
        (7, "unknown_schema", "refused"),
        (8, "unknown_schema", "refused"),
    ]


def test_a_row_that_could_not_be_recorded_has_no_ledger_id():
    (line,) = rejected_lines(RequestContext("r-1"), InvalidRequest(Code.INTERNAL, "the ledger can't be written"))
    assert line["ledger_id"] is None
