"""Which lexemes a greedy lexer can't separate."""

from __future__ import annotations

import pytest

from llm_policy.guidance.grammar import greedy_lexing
from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.grammar.grammar import Chars, Expression, Literal, Rule, choice, repeat, sequence
from llm_policy.guidance.grammar.greedy_lexing import TooManyStates, lead_bytes, overrunning_lexemes
from llm_policy.guidance.grammar.lexeme_grammar import FollowSets, LexemeGrammar
from llm_policy.guidance.grammar.regular_expression import RegularRules

LETTERS = repeat(Chars(CodeSet.of((0x61, 0x7A))), 1, None)


def _overrunning(root: Expression, **lexemes: Expression) -> set[str]:
    grammar = LexemeGrammar(RegularRules({}), "root", {"root": root}, lexemes)
    return overrunning_lexemes(grammar, FollowSets(grammar).result())


def test_lexemes_that_end_before_every_following_character_are_separated() -> None:
    assert _overrunning(sequence(Rule("A"), Rule("B")), A=LETTERS, B=Literal("1")) == set()


def test_a_lexeme_that_takes_the_first_character_of_the_next_overruns() -> None:
    assert _overrunning(sequence(Rule("A"), Rule("B")), A=LETTERS, B=Literal("x")) == {"A"}


def test_a_lexeme_overruns_another_that_is_allowed_at_the_same_place() -> None:
    root = choice(sequence(Rule("A"), Rule("B")), Rule("C"))
    assert _overrunning(root, A=Literal("a"), B=Literal("b"), C=Literal("abc")) == {"C"}


def test_a_lexeme_that_is_allowed_elsewhere_does_not_overrun() -> None:
    root = sequence(Rule("A"), Rule("B"), Rule("C"))
    assert _overrunning(root, A=Literal("a"), B=Literal("b"), C=Literal("abc")) == set()


def test_lexemes_that_follow_overlapping_ones_are_allowed_together() -> None:
    root = choice(sequence(Rule("A"), Rule("C"), Rule("D")), sequence(Rule("B"), Rule("E")))
    lexemes = {"C": Literal("c"), "D": Literal("d"), "E": Literal("cde")}
    assert _overrunning(root, A=Literal("a"), B=Literal("b"), **lexemes) == set()
    assert _overrunning(root, A=Literal("a"), B=Literal("a"), **lexemes) == {"E"}


def test_characters_that_share_the_first_byte_overrun() -> None:
    root = choice(sequence(Rule("A"), Rule("B")), Rule("C"))
    assert _overrunning(root, A=Literal("a"), B=Literal("é"), C=Literal("aê")) == {"C"}
    assert _overrunning(root, A=Literal("a"), B=Literal("é"), C=Literal("a€")) == set()


def test_a_repeated_lexeme_follows_itself() -> None:
    assert _overrunning(repeat(Rule("A"), 0, None), A=LETTERS) == {"A"}
    assert _overrunning(repeat(Rule("A"), 0, 1), A=LETTERS) == set()


@pytest.mark.parametrize(("name", "value"), [("MAX_LEXEMES", 1), ("MAX_PARTS", 4), ("MAX_STATES", 1), ("MAX_DEPTH", 0)])
def test_every_size_is_bounded(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    monkeypatch.setattr(greedy_lexing, name, value)
    with pytest.raises(TooManyStates):
        _overrunning(sequence(Rule("A"), Rule("B")), A=Literal("ab"), B=Literal("cd"))


@pytest.mark.parametrize("text", ["a", "\x7f", "\x80", "߿", "ࠀ", "\uffff", "\U00010000", "\U0010ffff"])
def test_the_first_byte_is_that_of_utf8(text: str) -> None:
    assert lead_bytes(CodeSet.of(text)) == 1 << text.encode()[0]


def test_a_range_has_the_first_bytes_of_all_its_characters() -> None:
    codes = (0x7E, 0x7FF)
    expected = {chr(code).encode()[0] for code in range(codes[0], codes[1] + 1)}
    found = lead_bytes(CodeSet.of(codes))
    assert {byte for byte in range(256) if found >> byte & 1 and not 0x80 <= byte < 0xC2} == expected
