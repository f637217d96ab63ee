"""Guided decoding: the output follows its grammar, whatever the model prefers."""

import json
import re

import pytest
from tokenizers import Tokenizer

from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.batcher import InFlightBatcher
from portable_engine.grammar import GrammarEngine, GuideError
from portable_engine.loader import load_model
from portable_engine.sequence import FinishReason
from tests.unit.portable_engine.tiny_qwen3 import decode, make_sequence

TOKENIZER = Tokenizer.from_file(str(DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"))
END_ID = TOKENIZER.token_to_id("<|im_end|>")
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":9}},"required":["n"]}'


@pytest.fixture(scope="module")
def engine():
    model = load_model(DEFAULT_RELEASE_DIR / "engine")
    grammars = GrammarEngine(DEFAULT_RELEASE_DIR / "tokenizer_info.json", model.config.vocab_size)
    yield grammars, InFlightBatcher(model, 4, grammars.mask_logits)
    grammars.close()


def compile_matcher(grammars, guide_type, guide):
    return grammars.matcher(grammars.compile(guide_type, guide).result(), END_ID)


def decode_guided(engine, guide_type, guide):
    grammars, batcher = engine
    sequence = make_sequence([70, 71, 72], 60, end_id=END_ID)
    sequence.matcher = compile_matcher(grammars, guide_type, guide)
    decode(sequence, batcher=batcher)
    assert sequence.finish_reason is FinishReason.END
    return TOKENIZER.decode(sequence.completion_token_ids)


def test_output_follows_a_json_schema(engine):
    assert json.loads(decode_guided(engine, "json_schema", SCHEMA))["n"] in range(1, 10)


def test_json_guided_by_a_schema_is_compact(engine):
    schema = '{"type":"object","properties":{"a":{"const":1},"b":{"const":2}},"required":["a","b"]}'
    assert decode_guided(engine, "json_schema", schema) == '{"a":1,"b":2}'


def test_a_sequence_whose_allowed_tokens_are_all_bad_words_fails_alone(engine):
    grammars, batcher = engine
    words = tuple(tuple(TOKENIZER.encode(letter).ids) for letter in "ab")
    alone = decode(make_sequence([70], 10), batcher=batcher)[0]
    for sampling in ({}, {"top_k": 0, "top_p": 0.9, "temperature": 0.5}):
        failing = make_sequence([70], 10, end_id=END_ID, bad_words=words, sampling=sampling)
        failing.matcher = compile_matcher(grammars, "regex", "[ab]")
        assert decode(make_sequence([70], 10), failing, batcher=batcher)[0] == alone
        assert failing.finish_reason is FinishReason.NO_ALLOWED_TOKEN


def test_output_follows_a_regex(engine):
    assert re.fullmatch(r"[a-f]{3}-\d{2}", decode_guided(engine, "regex", r"[a-f]{3}-\d{2}"))


def test_output_follows_an_ebnf_grammar(engine):
    assert decode_guided(engine, "ebnf_grammar", 'root ::= "yes" | "no"') in ("yes", "no")


def test_the_json_guide_accepts_only_json(engine):
    matcher = compile_matcher(engine[0], "json", "")
    assert matcher.accept_string('{"a": [1, true')
    assert not matcher.accept_string("x")


def test_guided_and_unguided_sequences_decode_together(engine):
    grammars, batcher = engine
    unguided, guided = make_sequence([70], 10), make_sequence([70], 10, end_id=END_ID)
    alone = decode(make_sequence([70], 10), batcher=batcher)[0]
    guided.matcher = compile_matcher(grammars, "regex", "[ab]{4}")
    together = decode(unguided, guided, batcher=batcher)
    assert together[0] == alone
    assert re.fullmatch("[ab]{4}", TOKENIZER.decode(together[1]))


BROKEN = {"xml": "sesame", "json_schema": '{"sesame', "regex": "(sesame", "ebnf_grammar": "sesame"}


@pytest.mark.parametrize(("guide_type", "guide"), BROKEN.items())
def test_the_error_for_a_guide_that_does_not_compile_does_not_quote_it(engine, guide_type, guide):
    with pytest.raises(GuideError, match="guide") as caught:
        engine[0].compile(guide_type, guide).result()
    assert "sesame" not in str(caught.value)
