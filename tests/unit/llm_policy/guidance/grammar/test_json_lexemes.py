"""Grammars of JSON text are split into tokens."""

from __future__ import annotations

import pytest

from llm_policy.guidance.grammar.code_set import DIGITS, CodeSet
from llm_policy.guidance.grammar.grammar import Chars, Expression, Literal, Rule, choice, optional, repeat, sequence
from llm_policy.guidance.grammar.json_lexemes import JsonLexemes, NotJson
from llm_policy.guidance.grammar.json_text import PLAIN
from llm_policy.guidance.grammar.lexeme_grammar import FollowSets, LexemeGrammar
from llm_policy.guidance.grammar.regular_expression import RegularRules

NESTED = Rule("nested")
NUMBER = sequence(optional(Literal("-")), repeat(Chars(DIGITS), 1, None))


def _grammar() -> LexemeGrammar:
    rules = {"text": sequence(repeat(Chars(PLAIN), 0, None), Literal('"')), "pair": Literal('"a":[1]')}
    return LexemeGrammar(RegularRules(rules), "root")


def _lexemes(*parts: Expression) -> list[Expression]:
    """The lexemes of a rule with these parts, in order of their first use."""
    grammar = _grammar()
    JsonLexemes(grammar).lower(sequence(*parts))
    return list(grammar.lexemes.values())


def test_a_literal_is_split_into_tokens() -> None:
    tokens = ("{", '"a\\":":', "[", "-1.5e+3", ",", "true", "]")
    assert _lexemes(Literal('{"a\\":":[-1.5e+3,true]'), NESTED) == list(map(Literal, tokens))


def test_a_string_whose_parts_are_rules_is_one_token() -> None:
    assert _lexemes(Literal('{"'), Rule("text"), Literal(":"), NESTED) == [
        Literal("{"),
        sequence(Literal('"'), Rule("text"), Literal(":")),
    ]


def test_a_string_with_counted_characters_is_one_token() -> None:
    string = sequence(Literal('"'), repeat(Chars(PLAIN), 2, 5), Literal('"'))
    assert _lexemes(NESTED, sequence(Literal(","), string, Literal("]"))) == [Literal(","), string, Literal("]")]


def test_an_escape_that_begins_at_the_end_of_a_literal_goes_on_in_the_next_part() -> None:
    string = sequence(Literal('"a\\'), Chars(CodeSet.of('n"')), Literal('b"'))
    assert _lexemes(string, NESTED) == [string]


def test_a_number_before_a_mark_is_one_token() -> None:
    assert _lexemes(NUMBER, Literal(","), NESTED) == [NUMBER, Literal(",")]


def test_options_that_are_tokens_become_one_lexeme() -> None:
    tokens = (Literal('"x"'), NUMBER)
    assert _lexemes(choice(tokens[0], NESTED, tokens[1])) == [choice(*tokens)]


def test_a_regular_part_of_several_tokens_is_split() -> None:
    grammar = _grammar()
    assert JsonLexemes(grammar).lower(sequence(Rule("pair"), NESTED)) == sequence(Rule("pair"), NESTED)
    assert grammar.lexemes == {}


def test_a_repeat_of_several_tokens_is_split() -> None:
    grammar = _grammar()
    found = JsonLexemes(grammar).lower(repeat(sequence(Literal(","), NUMBER), 2, 3))
    assert found == repeat(sequence(Rule("T0"), Rule("T1")), 2, 3)


@pytest.mark.parametrize(
    "part",
    [
        Literal("(1)"),
        Literal("a b"),
        Literal('"open'),
        Chars(CodeSet.of("aé")),
        sequence(choice(Literal('"'), Literal("1")), Literal('"')),
    ],
)
def test_text_that_is_not_json_is_refused(part: Expression) -> None:
    with pytest.raises(NotJson):
        _lexemes(part, NESTED)


def _is_exact(token: Expression) -> bool:
    """Whether the token is exact beside itself, inside and outside of brackets."""
    grammar = _grammar()
    lexemes = JsonLexemes(grammar)
    nested = sequence(Literal("["), Rule("root"), Literal("]"))
    grammar.rules["root"] = lexemes.lower(repeat(choice(token, nested), 0, None))
    return lexemes.is_exact(FollowSets(grammar).result())


def test_tokens_that_end_themselves_are_exact_beside_each_other() -> None:
    assert _is_exact(Literal('"a"'))
    assert _is_exact(Literal(","))


@pytest.mark.parametrize("token", [NUMBER, Literal("true"), choice(Literal('"a"'), Literal('"b":'), Literal(":"))])
def test_tokens_that_may_run_together_are_not_exact(token: Expression) -> None:
    assert not _is_exact(token)
