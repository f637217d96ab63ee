"""How a stream's row ends, by how the engine ended it."""

import pytest

from engine_process.messages import End, Generate, Tokens, write_ids
from ensemble_stream.conclusion import conclude
from ensemble_stream.stream import Stream
from llm_policy.ledger.row_record import RowRecord
from llm_policy.release.release import Release
from llm_policy.steps.postprocess import Postprocess
from llm_policy.text.incremental_detokenizer import IncrementalDetokenizer
from llm_policy.text.tokenizer import Tokenizer
from llmstack.paths import DEFAULT_RELEASE_DIR

RELEASE = Release.open(DEFAULT_RELEASE_DIR)
TOKENIZER = Tokenizer.load(RELEASE.tokenizer_dir)
POSTPROCESS = Postprocess(RELEASE.manifest, TOKENIZER)
PRICE = RELEASE.manifest.prices.per_token
RECORD = RowRecord(ledger_id=7, num_prompt_tokens=3, max_completion_tokens=8, end_id=TOKENIZER.eos_id)
MS = 1_000_000


def concluded(text, reason, code="", timeout_us=0, record=RECORD, num_output_tokens=None, last_ms=4):
    ids = TOKENIZER.encode_text(text).tolist()
    request = Generate(1, write_ids([1, 2, 3]), 8, timeout_us=timeout_us)
    stream = Stream(record, request, IncrementalDetokenizer(TOKENIZER.token_bytes))
    stream.add(Tokens(1, write_ids(ids)))
    count = len(ids) if num_output_tokens is None else num_output_tokens
    stream.end = End(1, reason, code, "why", 3, count, 1 * MS, 2 * MS, 3 * MS, last_ms * MS)
    return conclude(POSTPROCESS, stream)


def test_a_finished_stream_has_the_answer_of_postprocess():
    conclusion = concluded("Hello", "stop")
    assert conclusion.error is None
    assert conclusion.answer is not None
    assert conclusion.answer.text == "Hello"
    record = conclusion.record
    assert (record.code, record.finish_reason, record.queue_delay_us, record.total_time_us) == (
        "",
        "stop",
        1_000,
        3_000,
    )
    assert record.actual_nano_usd == PRICE.cost(3, record.num_completion_tokens)


def test_the_prompt_is_part_of_the_answer_where_the_row_includes_it():
    record = RECORD._replace(includes_prompt=True)
    prompt_text = TOKENIZER.decode([1, 2, 3])
    answer = concluded("Hello", "length", record=record).answer
    assert answer is not None
    assert answer.text == f"{prompt_text}Hello"


def test_a_cancelled_stream_pays_for_the_tokens_that_the_engine_counts():
    conclusion = concluded("Hello", "cancelled", num_output_tokens=6)
    assert (conclusion.record.code, conclusion.record.is_cut) == ("cancelled", True)
    assert conclusion.record.num_completion_tokens == 6
    assert conclusion.record.actual_nano_usd == PRICE.cost(3, 6)


def test_a_stream_whose_engine_dies_pays_for_the_tokens_that_came():
    conclusion = concluded("Hello", "error", "engine_unavailable", num_output_tokens=0)
    assert conclusion.record.num_completion_tokens == len(TOKENIZER.encode_text("Hello"))
    assert (conclusion.record.is_cut, str(conclusion.error)) == (True, "engine_unavailable: why")


@pytest.mark.parametrize("code", ["engine_unavailable", "overloaded", "schema_too_complex"])
def test_a_stream_that_fails_before_its_first_token_costs_nothing(code):
    conclusion = concluded("", "error", code)
    assert (conclusion.record.code, conclusion.record.is_cut) == (code, False)
    assert conclusion.record.actual_nano_usd == 0


def test_an_unknown_code_of_the_engine_is_an_internal_fault():
    assert concluded("", "error", "surprise").record.code == "internal"


def test_a_stream_that_takes_too_long_has_an_error_and_pays_for_its_tokens():
    conclusion = concluded("Hello", "deadline", timeout_us=2_000)
    assert (conclusion.record.code, conclusion.record.is_cut) == ("deadline_exceeded", True)
    assert conclusion.answer is None
