"""Both structured-output backends behind one interface: masks, tokens and ends."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import llguidance
import numpy as np
import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.compiled_guides import CompiledGuide
from portable_engine.guide_backend import GuideError
from portable_engine.guide_matcher import GuideMatcher
from portable_engine.llguidance_backend import LLGuidanceBackend
from portable_engine.xgrammar_backend import XGrammarBackend

INFO = json.loads((DEFAULT_RELEASE_DIR / "tokenizer_info.json").read_bytes())
TOKENIZER = Tokenizer.from_file(str(DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"))
(STOP_ID,) = INFO["stop_token_ids"]
OTHER_ID = TOKENIZER.token_to_id("<|im_start|>")
LETTER_ID = TOKENIZER.token_to_id("c")
ENDS = {STOP_ID, OTHER_ID}
NUM_TOKENS = len(INFO["encoded_vocab"])
VOCAB_SIZE = NUM_TOKENS + 70  # padded, and not a multiple of 32
XGRAMMAR, LLGUIDANCE = XGrammarBackend(INFO, VOCAB_SIZE, 1 << 20), LLGuidanceBackend(INFO, VOCAB_SIZE)
POOL = ThreadPoolExecutor(1)
# The same language for each backend.
PAIRS = [
    (("ebnf_grammar", 'root ::= "yes" | "no"'), ("lark_grammar", 'start: "yes" | "no"')),
    (("ebnf_grammar", 'root ::= [a-c]{2,5} "-" [0-9]+'), ("lark_grammar", "start: /[a-c]{2,5}-[0-9]+/")),
    (
        ("ebnf_grammar", 'root ::= "[" (item ("," item){0,3})? "]"\nitem ::= "ab" | root'),
        ("lark_grammar", 'start: list\nlist: "[" (item ("," item){0,3})? "]"\nitem: "ab" | list'),
    ),
]


def compile_guide(guide):
    return (LLGUIDANCE if guide[0] == "lark_grammar" else XGRAMMAR).compile(*guide)


def guide_matcher(grammar):
    """The engine's matcher over a backend's."""
    num_words = (VOCAB_SIZE + 31) // 32
    return GuideMatcher(CompiledGuide(b"", grammar), grammar.matcher(STOP_ID), num_words, time.thread_time_ns, POOL)


def fill(matcher, row=0, num_rows=1):
    bitmask = xgrammar.allocate_token_bitmask(num_rows, VOCAB_SIZE)
    matcher.fill_bitmask(bitmask, row)
    return bitmask


def allowed(matcher):
    """Ids of the allowed tokens."""
    bits = np.unpackbits(fill(matcher)[0].numpy().view("uint8"), count=VOCAB_SIZE, bitorder="little")
    return set(np.flatnonzero(bits).tolist())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("end_id", [-1, STOP_ID, OTHER_ID])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_both_backends_allow_the_same_texts(pair, end_id, seed):
    matchers, choose = [compile_guide(guide).matcher(end_id) for guide in pair], random.Random(seed)
    for _ in range(30):
        masks = [allowed(matcher) for matcher in matchers]
        # Where only one text can follow, llguidance allows no other tokens than its canonical ones.
        assert masks[1] <= masks[0]
        assert [masks[0] & ENDS, len(masks[0]) > 0] == [masks[1] & ENDS, len(masks[1]) > 0]
        token = choose.choice(sorted(masks[1]))
        assert [matcher.accept_token(token) for matcher in matchers] == [True, True]
        if token in (end_id, STOP_ID):
            assert [matcher.is_terminated() for matcher in matchers] == [True, True]
            return
        assert [matcher.is_terminated() for matcher in matchers] == [False, False]


@pytest.mark.parametrize("guide", [*PAIRS[1], ("json", "{}"), ("lark_grammar", "start: %json {}")])
def test_ids_beyond_the_tokenizer_and_control_tokens_are_never_allowed(guide):
    matcher = compile_guide(guide).matcher(OTHER_ID)
    special = {OTHER_ID, STOP_ID, *range(NUM_TOKENS, VOCAB_SIZE)}
    assert not allowed(matcher) & special


@pytest.mark.parametrize("guide", PAIRS[0])
def test_only_the_requests_end_id_ends_the_output(guide):
    matcher = compile_guide(guide).matcher(OTHER_ID)
    assert all(matcher.accept_token(token) for token in TOKENIZER.encode("yes").ids)
    assert allowed(matcher) == {OTHER_ID}
    assert not matcher.accept_token(STOP_ID)
    assert matcher.accept_token(OTHER_ID)
    assert matcher.is_terminated()


def test_an_end_id_is_never_text():
    matcher = compile_guide(("lark_grammar", "start: /[a-d]+/")).matcher(LETTER_ID)
    assert LETTER_ID not in allowed(matcher)
    assert matcher.accept_token(TOKENIZER.token_to_id("a"))
    assert LETTER_ID in allowed(matcher)
    assert matcher.accept_token(LETTER_ID)
    assert matcher.is_terminated()


@pytest.mark.parametrize("guide", PAIRS[0])
def test_a_token_that_is_not_allowed_changes_nothing(guide):
    matcher = compile_guide(guide).matcher(STOP_ID)
    before = allowed(matcher)
    assert not matcher.accept_token(LETTER_ID)
    assert not matcher.accept_token(STOP_ID)
    assert allowed(matcher) == before


@pytest.mark.parametrize("guide", PAIRS[1])
def test_matchers_of_one_grammar_are_independent(guide):
    grammar = compile_guide(guide)
    first, second = grammar.matcher(STOP_ID), grammar.matcher(STOP_ID)
    before = allowed(second)
    assert first.accept_token(LETTER_ID)
    assert allowed(second) == before
    assert allowed(grammar.matcher(STOP_ID)) == before


@pytest.mark.parametrize("guide", PAIRS[0])
def test_a_mask_changes_its_row_alone(guide):
    bitmask = fill(compile_guide(guide).matcher(STOP_ID), row=1, num_rows=3)
    assert (bitmask[[0, 2]] == -1).all()
    assert not (bitmask[1] == -1).all()


@pytest.mark.parametrize("bit", [0, 30, 31])
def test_the_end_id_can_be_any_bit_of_a_word(bit):
    end_id = NUM_TOKENS // 32 * 32 - 32 + bit
    matcher = compile_guide(PAIRS[0][1]).matcher(end_id)
    assert all(matcher.accept_token(token) for token in TOKENIZER.encode("no").ids)
    assert allowed(matcher) == {end_id}


def compile_with(guide, **limits):
    """A Lark grammar with limits of llguidance that are lower than its own."""
    backend = LLGuidanceBackend(INFO, VOCAB_SIZE)
    backend._limits = llguidance.LLParserLimits(verbose_errors=False, **limits)
    return backend.compile("lark_grammar", guide)


EXCEEDED = {
    "a mask": ('start: "sesame" /[a-z]{1,30}b/', {"max_lexer_states": 30}),
    "a state": ('start: "sesame" (("," | ",,")+ | x+)\nx: ("," | y)\ny: ("," | ",,")', {"max_items_in_row": 3}),
}


def follow(matcher, text):
    for token in TOKENIZER.encode(text).ids:
        fill(matcher)
        if not matcher.accept_token(token):
            return
    fill(matcher)


@pytest.mark.parametrize(("guide", "limits"), EXCEEDED.values(), ids=EXCEEDED)
def test_a_matcher_that_exceeds_a_limit_raises_instead_of_allowing_the_end(guide, limits):
    with pytest.raises(GuideError) as caught:
        follow(compile_with(guide, **limits).matcher(STOP_ID), "sesame,,,,,,")
    assert caught.value.failure.code == "schema_too_complex"
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(("guide", "limits"), EXCEEDED.values(), ids=EXCEEDED)
def test_a_failed_matcher_allows_no_token(guide, limits):
    matcher = guide_matcher(compile_with(guide, **limits))
    follow(matcher, "sesame,,,,,,")
    assert matcher.failure.code == "schema_too_complex"
    assert allowed(matcher) == set()
    assert not matcher.accept_token(STOP_ID)
    assert not matcher.is_terminated()


@pytest.mark.parametrize("limits", [{"initial_lexer_fuel": 10}, {"max_grammar_size": 1}, {"max_lexer_states": 3}])
def test_a_guide_that_exceeds_a_limit_when_it_compiles_is_rejected(limits):
    with pytest.raises(GuideError, match="does not compile"):
        compile_with("start: /[a-z]{1,30}b/", **limits)


def test_an_error_of_xgrammar_is_a_failure_of_its_row():
    matcher = compile_guide(("ebnf_grammar", 'root ::= "a"')).matcher(STOP_ID)
    assert all(matcher.accept_token(token) for token in (TOKENIZER.token_to_id("a"), STOP_ID))
    with pytest.raises(GuideError) as caught:
        fill(matcher)
    assert caught.value.failure == ("internal", "the guide's token mask can't be computed")


def test_no_text_follows_the_end_of_a_lark_grammar():
    matcher = compile_guide(("lark_grammar", "start: /a+/")).matcher(STOP_ID)
    letter = TOKENIZER.token_to_id("a")
    assert [matcher.accept_token(token) for token in (letter, STOP_ID, letter)] == [True, True, False]
    assert matcher.is_terminated()


@pytest.mark.parametrize("pair", PAIRS)
def test_a_mask_that_is_computed_ahead_is_the_one_of_the_backend(pair):
    for guide in pair:
        grammar = compile_guide(guide)
        plain, ahead = grammar.matcher(STOP_ID), guide_matcher(grammar)
        for _ in range(8):
            assert allowed(ahead) == allowed(plain)
            token = max(allowed(plain))
            assert ahead.accept_token(token) == plain.accept_token(token)
            if plain.is_terminated():
                break
        assert ahead.is_terminated() == plain.is_terminated()


def test_a_token_may_follow_another_without_a_mask_between():
    matcher = guide_matcher(compile_guide(PAIRS[0][1]))
    assert [matcher.accept_token(TOKENIZER.token_to_id(letter)) for letter in "no"] == [True, True]
    assert allowed(matcher) == {STOP_ID}
