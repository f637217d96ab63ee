"""Grammars as Lark text."""

from __future__ import annotations

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.ebnf_reader import read_ebnf
from llm_policy.guidance.grammar.grammar import Grammar
from llm_policy.guidance.grammar.json_text import JsonText
from llm_policy.guidance.grammar.lark_writer import write_lark
from llm_policy.guidance.plan.json_schema_guide import plan_json_schema
from llm_policy.release.guide_limits import GuideLimits
from tests.lark_check import accepts, compile_lark

LIMITS = GuideLimits()


def lark(text: str) -> str:
    grammar = read_ebnf(text, LIMITS)
    assert grammar.prune()
    return write_lark(grammar, LIMITS)


def terminals(text: str) -> list[str]:
    return [line.split(": ", 1)[1] for line in text.splitlines() if line.startswith("T")]


def test_a_regular_grammar_is_one_terminal() -> None:
    assert lark('root ::= "a" [b-d]{2,5} x | "e"\nx ::= "y" x | ""') == "start: TEXT\nTEXT: /a[b-d]{2,5}y*|e/\n"


def test_a_rule_that_is_used_often_is_a_terminal_of_its_own() -> None:
    text = lark('root ::= x "," x\nx ::= "a long literal" | "another literal"')
    assert text == "start: TEXT\nS0: /a long literal|another literal/\nTEXT: S0 /,/ S0\n"


def test_a_short_rule_is_repeated_in_the_text() -> None:
    assert lark('root ::= x "," x\nx ::= [0-9]') == "start: TEXT\nTEXT: /[0-9],[0-9]/\n"


@pytest.mark.parametrize("character", list("/\\\"'#.*+?()[]{}|^$&~-\n\t\x00\x7fé€😀 %<>:"))
def test_every_character_stands_for_itself(character: str) -> None:
    grammar = Grammar("root")
    grammar.rules = read_ebnf(f'root ::= "\\U{ord(character):08x}" | "b" [\\U{ord(character):08x}a]', LIMITS).rules
    matcher = compile_lark(write_lark(grammar, LIMITS))
    assert accepts(matcher, character)
    assert accepts(matcher, f"b{character}")
    assert not accepts(matcher, "c")
    assert not accepts(matcher, "bb")


@pytest.mark.parametrize(("text", "expected"), [("", True), ("é", True), ("\n", True), ("éé", False)])
def test_a_class_of_all_characters_takes_line_ends(text: str, expected: bool) -> None:
    assert accepts(compile_lark(lark(r"root ::= [\U00000000-\U0010ffff]?")), text) == expected


def test_nested_brackets_become_rules_over_lexemes() -> None:
    matcher = compile_lark(lark('root ::= "(" root ")" root | ""'))
    assert accepts(matcher, "(())()")
    assert accepts(matcher, "")
    assert not accepts(matcher, "(()")


def test_the_lexemes_of_json_are_its_tokens() -> None:
    grammar = Grammar("root")
    grammar.define("root", JsonText(grammar).any_value())
    text = write_lark(grammar, LIMITS)
    matcher = compile_lark(text)
    assert accepts(matcher, '{"a":[1,-0.5e+3,{"b":"c\\n"},[],{}],"":null}')
    assert not accepts(matcher, '{"a":[1,]}')
    assert not accepts(matcher, '{"a" :1}')
    assert {"/\\x{5B}/", "/\\x{7B}/", "/,/"} <= set(terminals(text))


def test_text_around_a_recursive_value_is_divided_into_tokens() -> None:
    schema = '{"type":"object","properties":{"a":{"enum":["x","y:,"]},"b":{}},"required":["a","b"]}'
    text = write_lark(plan_json_schema(schema, LIMITS, Counting.EXACT).grammar, LIMITS)
    assert {'/"a":/', '/"b":/', '/"x"|"y:,"/'} <= set(terminals(text))
    assert accepts(compile_lark(text), '{"a":"y:,","b":[true]}')


def test_adjacent_regular_parts_are_one_lexeme() -> None:
    assert "/<[a-z]+>/" in terminals(lark('root ::= "<" [a-z]+ ">" root "!" | "."'))


def test_a_lexeme_that_overruns_the_end_of_another_is_divided() -> None:
    text = lark('root ::= [a-z]+ "x" root "y" | "."')
    assert "/[a-z]/" in terminals(text)
    matcher = compile_lark(text)
    assert accepts(matcher, "axx.y")
    assert accepts(matcher, "xx.y")
    assert not accepts(matcher, "x.y")


def test_lexemes_whose_characters_share_a_first_byte_are_kept_apart() -> None:
    matcher = compile_lark(lark('root ::= "a" ("é" | root "x") | "aê" root "y" | "b"'))
    assert accepts(matcher, "aé")
    assert accepts(matcher, "aêby")
    assert accepts(matcher, "aaêbyx")


def test_a_lexeme_that_may_be_empty_is_optional() -> None:
    matcher = compile_lark(lark('root ::= "[" [0-9]* root? "]"'))
    assert accepts(matcher, "[12[]]")
    assert accepts(matcher, "[[3]]")
    assert not accepts(matcher, "[]3]")


def test_a_json_grammar_with_whitespace_keeps_strings_whole() -> None:
    text = lark(
        'root ::= object\nws ::= [ \\n]*\nstring ::= "\\"" [^"]* "\\"" ws\n'
        'value ::= string | object | "[" ws (value ("," ws value)*)? "]" ws\n'
        'object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws'
    )
    assert any('[^"]*' in terminal for terminal in text.splitlines())
    matcher = compile_lark(text)
    assert accepts(matcher, '{ "a": ["b", {}\n],"c" :"" } ')
    assert not accepts(matcher, '{ "a": ["b" "c"] }')


def test_deeply_nested_groups_get_names() -> None:
    matcher = compile_lark(lark("root ::= " + "(" * 30 + '"a" | "b" root "c"' + ')? "x"' * 30))
    assert accepts(matcher, "bxc" + "x" * 30)
    assert accepts(matcher, "x")
    assert not accepts(matcher, "bxc" + "x" * 29)


def test_deeply_nested_regular_groups_get_names() -> None:
    chain = "\n".join(f'r{i} ::= "b" r{i + 1} "c" | "d"' for i in range(100))
    matcher = compile_lark(lark(f'root ::= r0\n{chain}\nr100 ::= "e"'))
    assert accepts(matcher, "b" * 100 + "e" + "c" * 100)
    assert accepts(matcher, "b" * 50 + "d" + "c" * 50)
    assert not accepts(matcher, "b" * 50 + "d" + "c" * 49)


@pytest.mark.parametrize("last", ['"e"', '"e" root "f"'])
def test_a_chain_of_rules_too_deep_for_the_stack_is_too_complex(last: str) -> None:
    chain = "\n".join(f'r{i} ::= "b" r{i + 1} "c" | "d"' for i in range(1_100))
    with pytest.raises(InvalidRequest, match="nesting depth of the grammar is"):
        lark(f"root ::= r0\n{chain}\nr1100 ::= {last}")


def test_too_many_rules_are_too_complex() -> None:
    with pytest.raises(InvalidRequest, match="number of grammar rules is 2, limit 1"):
        write_lark(read_ebnf('root ::= x\nx ::= "a"', LIMITS), GuideLimits(max_rules=1))


def test_too_long_a_text_is_too_complex() -> None:
    with pytest.raises(InvalidRequest, match="grammar size in bytes is 24, limit 23"):
        write_lark(read_ebnf('root ::= "abc"', LIMITS), GuideLimits(max_grammar_bytes=23))


def test_the_grammar_stays_as_it_is() -> None:
    grammar = read_ebnf('root ::= "(" root ")" root | [a-c]{2,9}', LIMITS)
    before = dict(grammar.rules)
    write_lark(grammar, LIMITS)
    assert grammar.rules == before
