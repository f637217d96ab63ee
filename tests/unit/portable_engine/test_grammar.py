"""Guided decoding with a random model: whatever it says, it says it in the grammar."""

import json
import re

import pytest
from tokenizers import Tokenizer

from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.batcher import InFlightBatcher
from portable_engine.grammar import GrammarEngine, GuideError
from portable_engine.loader import load_model
from portable_engine.sequence import Finish
from tests.unit.portable_engine.tiny_qwen3 import run, sequence

TOKENIZER = Tokenizer.from_file(str(DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"))
END_ID = TOKENIZER.token_to_id("<|im_end|>")
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":9}},"required":["n"]}'


@pytest.fixture(scope="module")
def engine():
    model = load_model(DEFAULT_RELEASE_DIR / "engine")
    grammars = GrammarEngine(DEFAULT_RELEASE_DIR / "tokenizer_info.json", model.config.vocab_size)
    yield grammars, InFlightBatcher(model, 4, grammars.mask)
    grammars.close()


def guided(engine, guide_type, guide):
    grammars, batcher = engine
    each = sequence([70, 71, 72], 60, end_id=END_ID)
    each.matcher = grammars.matcher(grammars.compile(guide_type, guide).result(), END_ID)
    run(each, engine=batcher)
    assert each.finish is Finish.END
    return TOKENIZER.decode(each.completion_token_ids)


def test_a_json_schema_is_followed(engine):
    assert json.loads(guided(engine, "json_schema", SCHEMA))["n"] in range(1, 10)


def test_json_by_a_schema_is_compact(engine):
    schema = '{"type":"object","properties":{"a":{"const":1},"b":{"const":2}},"required":["a","b"]}'
    assert guided(engine, "json_schema", schema) == '{"a":1,"b":2}'


def test_a_guide_whose_every_token_is_a_bad_word_fails_alone(engine):
    grammars, batcher = engine
    words = tuple(tuple(TOKENIZER.encode(letter).ids) for letter in "ab")
    free, alone = sequence([70], 10), run(sequence([70], 10), engine=batcher)[0]
    for sampling in ({}, {"top_k": 0, "top_p": 0.9, "temperature": 0.5}):
        dead = sequence([70], 10, end_id=END_ID, bad_words=words, sampling=sampling)
        free = sequence([70], 10)
        dead.matcher = grammars.matcher(grammars.compile("regex", "[ab]").result(), END_ID)
        assert run(free, dead, engine=batcher)[0] == alone
        assert dead.finish is Finish.DEAD_END


def test_a_regex_is_followed(engine):
    assert re.fullmatch(r"[a-f]{3}-\d{2}", guided(engine, "regex", r"[a-f]{3}-\d{2}"))


def test_an_ebnf_grammar_is_followed(engine):
    assert guided(engine, "ebnf_grammar", 'root ::= "yes" | "no"') in ("yes", "no")


def test_json_of_any_form_starts_as_json(engine):
    grammars, _ = engine
    matcher = grammars.matcher(grammars.compile("json", "").result(), END_ID)
    assert matcher.accept_string('{"a": [1, true')
    assert not matcher.accept_string("x")


def test_guided_and_unguided_sequences_decode_together(engine):
    grammars, batcher = engine
    free, bound = sequence([70], 10), sequence([70], 10, end_id=END_ID)
    alone = run(sequence([70], 10), engine=batcher)[0]
    bound.matcher = grammars.matcher(grammars.compile("regex", "[ab]{4}").result(), END_ID)
    together = run(free, bound, engine=batcher)
    assert together[0] == alone
    assert re.fullmatch("[ab]{4}", TOKENIZER.decode(together[1]))


BROKEN = {"xml": "sesame", "json_schema": '{"sesame', "regex": "(sesame", "ebnf_grammar": "sesame"}


@pytest.mark.parametrize(("guide_type", "guide"), BROKEN.items())
def test_a_guide_that_does_not_compile_says_so_without_quoting_it(engine, guide_type, guide):
    with pytest.raises(GuideError, match="guide") as caught:
        engine[0].compile(guide_type, guide).result()
    assert "sesame" not in str(caught.value)
