"""Guided decoding: the output follows its grammar, whatever the model prefers."""

import json
import re

import llguidance
import pytest
from tokenizers import Tokenizer

from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.batcher import InFlightBatcher
from portable_engine.compiled_guides import CompiledGuides
from portable_engine.grammar import GrammarEngine
from portable_engine.guide_backend import GuideError
from portable_engine.loader import load_model
from portable_engine.sequence import FinishReason
from tests.unit.portable_engine.tiny_qwen3 import Clock, decode, make_sequence

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
    assert all(matcher.accept_token(token) for token in TOKENIZER.encode('{"a": [1, true').ids)
    assert not matcher.accept_token(TOKENIZER.encode("x").ids[0])


def test_guided_and_unguided_sequences_decode_together(engine):
    grammars, batcher = engine
    unguided, guided = make_sequence([70], 10), make_sequence([70], 10, end_id=END_ID)
    alone = decode(make_sequence([70], 10), batcher=batcher)[0]
    guided.matcher = compile_matcher(grammars, "regex", "[ab]{4}")
    together = decode(unguided, guided, batcher=batcher)
    assert together[0] == alone
    assert re.fullmatch("[ab]{4}", TOKENIZER.decode(together[1]))


def test_output_follows_a_lark_grammar(engine):
    assert re.fullmatch(
        r"[a-f]{3}-(yes|no)", decode_guided(engine, "lark_grammar", 'start: /[a-f]{3}-/ ("yes" | "no")')
    )


def test_output_follows_a_json_schema_in_a_lark_grammar(engine):
    schema = '{"x-guidance":{"whitespace_flexible":false},' + SCHEMA[1:]
    text = decode_guided(engine, "lark_grammar", f"start: %json {schema}")
    assert re.fullmatch(r'\{"n":[1-9]\}', text)


def test_rows_of_both_backends_decode_together_as_alone(engine):
    grammars, batcher = engine
    guides = [("regex", "[ab]{4}"), ("lark_grammar", "start: /[cd]{4}/"), ("ebnf_grammar", 'root ::= "yes"'), None]

    def rows():
        for guide in guides:
            sequence = make_sequence([70], 10, end_id=END_ID)
            sequence.matcher = compile_matcher(grammars, *guide) if guide else None
            yield sequence

    alone = [decode(sequence, batcher=batcher)[0] for sequence in rows()]
    assert decode(*rows(), batcher=batcher) == alone
    texts = [TOKENIZER.decode(tokens) for tokens in alone]
    assert re.fullmatch("[ab]{4}", texts[0])
    assert re.fullmatch("[cd]{4}", texts[1])
    assert texts[2] == "yes"


BROKEN = {
    "xml": "sesame",
    "json_schema": '{"sesame',
    "regex": "(sesame",
    "ebnf_grammar": "sesame",
    "lark_grammar": "start: sesame",
}


@pytest.mark.parametrize(("guide_type", "guide"), BROKEN.items())
def test_the_error_for_a_guide_that_does_not_compile_does_not_quote_it(engine, guide_type, guide):
    with pytest.raises(GuideError, match="guide") as caught:
        engine[0].compile(guide_type, guide).result()
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "guide", ["", "sesame", "start: /(sesame/", 'start: %json {"type":"sesame"}', "start: a\na: a"]
)
def test_a_lark_grammar_that_is_not_one_is_rejected_without_quoting_it(engine, guide):
    with pytest.raises(GuideError) as caught:
        engine[0].compile("lark_grammar", guide).result()
    assert caught.value.failure == ("schema_invalid", "the lark_grammar guide does not compile")


@pytest.fixture
def timed_engine():
    """An engine whose mask fills take as long as its clock says."""
    clock = Clock()
    grammars = GrammarEngine(DEFAULT_RELEASE_DIR / "tokenizer_info.json", 4_096, max_mask_ms=5.0, clock=clock)
    batcher = InFlightBatcher(load_model(DEFAULT_RELEASE_DIR / "engine"), 4, grammars.mask_logits)
    yield grammars, batcher, clock
    grammars.close()


GUIDES = [("regex", "[ab]{40}"), ("lark_grammar", "start: /[ab]{40}/")]


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_with_slow_masks_loses_its_place_and_is_refused_at_once(timed_engine, guide):
    grammars, batcher, clock = timed_engine
    slow = make_sequence([70], 60, end_id=END_ID)
    slow.matcher = compile_matcher(grammars, *guide)
    clock.step_ns = 100_000_000
    tokens = decode(slow, batcher=batcher)[0]
    assert (len(tokens), slow.finish_reason) == (1, FinishReason.GUIDE_FAILED)
    failure = ("schema_too_complex", "processor time of the guide's token masks in ms is 100.0, limit 5")
    assert slow.matcher.failure == failure
    refused = grammars.compile(*guide)
    assert refused.done()
    assert refused.exception().failure == failure


def test_every_sequence_of_a_guide_that_loses_its_place_ends_and_others_continue(timed_engine):
    grammars, batcher, clock = timed_engine
    unguided = make_sequence([70], 10)
    alone = decode(make_sequence([70], 10), batcher=batcher)[0]
    compiled = grammars.compile(*GUIDES[1]).result()
    rows = [make_sequence([70], 60, end_id=END_ID) for _ in range(2)]
    for row in rows:
        row.matcher = grammars.matcher(compiled, END_ID)
    clock.step_ns = 100_000_000
    assert decode(unguided, *rows, batcher=batcher)[0] == alone
    assert {row.finish_reason for row in rows} == {FinishReason.GUIDE_FAILED}


def test_one_slow_mask_does_not_end_a_guide(timed_engine):
    grammars, batcher, _ = timed_engine
    grammars._clock = Clock(jump_at=4, jump_ns=10_000_000_000)
    sequence = make_sequence([70], 60, end_id=END_ID)
    sequence.matcher = compile_matcher(grammars, *GUIDES[1])
    decode(sequence, batcher=batcher)
    assert sequence.finish_reason is FinishReason.END


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_that_is_compiled_already_does_not_wait_for_the_compile_thread(engine, guide):
    grammars, _ = engine
    compiled = grammars.compile(*guide).result()
    again = grammars.compile(*guide)
    assert again.done()
    assert again.result() is compiled


def test_a_guide_that_was_queued_twice_is_compiled_once(engine):
    grammars, _ = engine
    first, second = (grammars.compile("lark_grammar", 'start: "queued twice"') for _ in range(2))
    assert first.result() is second.result()


def test_a_guide_without_room_in_the_cache_is_still_served(engine, monkeypatch):
    grammars, _ = engine
    monkeypatch.setattr(grammars, "_guides", CompiledGuides(max_bytes=0))
    assert decode_guided(engine, "lark_grammar", 'start: "no room"') == "no room"


def test_a_guide_whose_state_exceeds_a_limit_fails_its_row_alone(timed_engine, monkeypatch):
    grammars, batcher, _ = timed_engine
    alone = decode(make_sequence([70], 10), batcher=batcher)[0]
    limits = llguidance.LLParserLimits(verbose_errors=False, max_items_in_row=3)
    monkeypatch.setattr(grammars._backends["lark_grammar"], "_limits", limits)
    failing = make_sequence([70], 40, end_id=END_ID)
    guide = 'start: "sesame" (("," | ",,")+ | x+)\nx: ("," | y)\ny: ("," | ",,")'
    failing.matcher = compile_matcher(grammars, "lark_grammar", guide)
    assert decode(make_sequence([70], 10), failing, batcher=batcher)[0] == alone
    assert failing.finish_reason is FinishReason.GUIDE_FAILED
    assert failing.matcher.failure == ("schema_too_complex", "the guide's state exceeds a limit")
    assert "sesame".startswith(TOKENIZER.decode(failing.completion_token_ids))
