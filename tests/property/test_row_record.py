"""Any record survives the tensor between the two steps and becomes the same ledger row."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.ledger.row_record import RowRecord
from llm_policy.steps.policy_decision import FIELDS, pack_records, unpack_records
from tests.hypothesis_profiles import num_examples
from tests.ledgers import open_ledger, rows

# Text that JSON and SQLite can hold: no lone surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
COUNTS = st.integers(0, 2**53)
TOKENS = st.integers(0, 2**31 - 1)
ADMITTED = {
    "request_id": TEXTS,
    "tenant": TEXTS,
    "trace_id": TEXTS,
    "is_canary": st.booleans(),
    "row_number": st.integers(0, 3),
    "task": TEXTS,
    "schema_id": TEXTS,
    "guide_kind": TEXTS,
    "guide_text": TEXTS,
    "num_prompt_tokens": COUNTS,
    "max_completion_tokens": COUNTS,
    "prompt_nano_usd": COUNTS,
    "projected_nano_usd": COUNTS,
    "end_id": TOKENS,
    "includes_prompt": st.booleans(),
    "is_authenticated": st.booleans(),
    "is_new_guide": st.booleans(),
    "stop_words": st.lists(st.lists(TOKENS, max_size=4).map(tuple), max_size=3).map(tuple),
}
ANSWER = {
    "finish_reason": TEXTS,
    "num_completion_tokens": COUNTS,
    "actual_nano_usd": COUNTS,
    "schema_valid": st.booleans(),
    "flags": st.lists(st.sampled_from(["queue_delay_breach", "cost_breach", "truncated"]), unique=True).map(tuple),
    "queue_delay_us": COUNTS,
    "time_to_first_token_us": COUNTS,
    "total_time_us": COUNTS,
}


def records(**fields):
    """Records with the strategies' fields; the others have their defaults."""
    return st.fixed_dictionaries(fields).map(lambda values: RowRecord(**values))


LEDGER_IDS = st.none() | st.integers(1, 2**63 - 1)
COLUMNS = {
    "request_id": "request_id",
    "tenant": "tenant",
    "task": "task",
    "schema_id": "schema_id",
    "row_number": "row_number",
    "canary": "is_canary",
    "num_prompt_tokens": "num_prompt_tokens",
    "projected_nano_usd": "projected_nano_usd",
}


def test_these_strategies_cover_every_field():
    assert set(RowRecord._fields) == {*ADMITTED, *ANSWER, "ledger_id", "code", "code_detail", "is_cut"}
    assert set(FIELDS) == {*ADMITTED, "ledger_id"}


@given(st.lists(records(**ADMITTED, ledger_id=LEDGER_IDS), min_size=1, max_size=4))
def test_records_survive_the_tensor(batch):
    assert unpack_records(pack_records(batch)) == batch


@given(records(**ADMITTED, **ANSWER, ledger_id=LEDGER_IDS, code=TEXTS))
def test_the_tensor_carries_what_is_known_at_admission_and_nothing_later(record):
    (carried,) = unpack_records(pack_records([record]))
    assert carried == RowRecord(**{name: getattr(record, name) for name in FIELDS})


@settings(max_examples=num_examples(25))
@given(records(**ADMITTED), st.fixed_dictionaries(ANSWER))
def test_every_column_of_the_ledger_row_comes_from_the_record(record, answer):
    with tempfile.TemporaryDirectory() as directory:
        ledger = open_ledger(Path(directory))
        ((admitted,),) = ledger.record([[record]])
        assert admitted == record._replace(ledger_id=1)
        (open_row,) = rows(ledger)
        assert {column: open_row[column] for column in COLUMNS} == {
            column: getattr(record, field) for column, field in COLUMNS.items()
        }
        assert open_row["actual_nano_usd"] == record.prompt_nano_usd
        (carried,) = unpack_records(pack_records([admitted]))
        ledger.settle([carried._replace(**answer)])
        (settled,) = rows(ledger)
        ledger.connection.close()
    assert {column: settled[column] for column in COLUMNS} == {column: open_row[column] for column in COLUMNS}
    for column in ("num_completion_tokens", "actual_nano_usd", "queue_delay_us"):
        assert settled[column] == answer[column]
    assert settled["flags"] == ",".join(answer["flags"])
