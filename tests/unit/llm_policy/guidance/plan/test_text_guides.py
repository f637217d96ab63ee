"""Regex, EBNF and choice guides: the texts they accept, and the guides that are rejected."""

from __future__ import annotations

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.plan.ebnf_guide import plan_ebnf
from llm_policy.guidance.plan.text_guides import plan_choice, plan_regex
from llm_policy.release.guide_limits import GuideLimits
from tests.grammar_check import accepts, compile_plan

LIMITS = GuideLimits()


@pytest.mark.parametrize(
    ("regex", "good", "bad"),
    [
        (r"[a-z]+@[a-z]+\.com", ["a@b.com"], ["a@b.com ", "xa"]),
        (r"^\d{3}-\d{4}$", ["123-4567"], ["1234567"]),
        ("a|b", ["a", "b"], ["ab"]),
        ("a{200,}", ["a" * 200, "a" * 300], ["a" * 199]),
        (r"(?:x(?<name>y)?)*", ["", "xxy"], ["y"]),
        (r"[^\n]\u00e9?[\x41-\x43]", ["éA", "xéC"], ["\nA", "D"]),
    ],
)
def test_a_regex_must_match_the_whole_text(regex: str, good: list[str], bad: list[str]) -> None:
    compiled = compile_plan(plan_regex(regex, LIMITS), copy_classes=False)
    assert [accepts(compiled, text) for text in (*good, *bad)] == [True] * len(good) + [False] * len(bad)


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("(?=a)b", "lookahead"),
        (r"(?<!a)b", "lookbehind"),
        (r"(a)\1", "back-reference"),
        (r"\bfoo", "word boundary"),
        (r"[^\s\S]", "no text matches"),
        ("(a", "not closed"),
        ("a**", "quantifier"),
        ("*a", "nothing to repeat"),
        ("x{5,2}", "maximum is below"),
        ("[z-a]", "backwards"),
        ("", "empty"),
        ("a^b", "anchor in the middle"),
        ("(?i)a", "group option"),
        ("a\\", "incomplete construct"),
        ("[a", "incomplete construct"),
    ],
)
def test_an_unsupported_or_invalid_regex_is_rejected_with_the_reason(regex: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^schema_invalid: .*{reason}"):
        plan_regex(regex, LIMITS)


@pytest.mark.parametrize(
    "regex",
    [
        "(" * 40_000 + ")" * 40_000,
        "(" * 40 + ")" * 40,
        "a?" * 1_000 + "a" * 1_000,
        "((a{99}){99}){99}",
        ".*" * 60,
        "(a{1000}){1000}",
    ],
)
def test_a_regex_over_a_limit_is_rejected_with_the_limit(regex: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: .* is \d+, limit \d+$"):
        plan_regex(regex, LIMITS)


def test_a_grammar_accepts_its_language_after_the_rewrite() -> None:
    text = 'root ::= e # sum\ne ::= t ("+" t)*\nt ::= [0-9]{1,3} |\n  "(" e ")" | "\\u00e9"\n'
    compiled = compile_plan(plan_ebnf(text, LIMITS), copy_classes=False)
    assert accepts(compiled, "(1+é)+345")
    assert not accepts(compiled, "1+")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("root ::= root", "never be completed"),
        ('root ::= "a" root', "never be completed"),
        ('root ::= root "a" | "b"', "starts with itself"),
        ('root ::= a\na ::= b? a "x" | "y"\nb ::= "z"', "starts with itself"),
        ('x ::= "a"', "no rule root"),
        ("root ::= y", "does not define"),
        ('root ::= "a"\nroot ::= "b"', "twice"),
        ('root = "a"', "unknown"),
        ('root ::= (= "a") "b"', "unknown"),
        ('root ::= ("a"', "not closed"),
        ('root ::= "a" |', "empty alternative"),
        ('root ::= "a"{3,2}', "maximum is below"),
        ("root ::= [^\\u0000-\\U0010ffff]", "never be completed"),
    ],
)
def test_an_invalid_or_endless_grammar_is_rejected_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^schema_invalid: .*{reason}"):
        plan_ebnf(text, LIMITS)


@pytest.mark.parametrize(
    "text",
    [
        "root ::= " + "(" * 50 + '"a"' + ")" * 50,
        'root ::= "a"{999999}',
        'root ::= b{900}\nb ::= c{900}\nc ::= "x"{900}',
        "root ::= " + "[^a] " * 60,
    ],
)
def test_a_grammar_over_a_limit_is_rejected_with_the_limit(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: .* is \d+, limit \d+$"):
        plan_ebnf(text, LIMITS)


def test_a_choice_accepts_exactly_its_texts() -> None:
    compiled = compile_plan(plan_choice('["yes","no \\"x\\"","é"]', LIMITS), copy_classes=False)
    assert [accepts(compiled, text) for text in ("yes", 'no "x"', "é", "ye", "")] == [True, True, True, False, False]


@pytest.mark.parametrize("text", ["[]", '["a","a"]', '{"a":1}', "[1]", '[""]', "nonsense", '["a"] x'])
def test_a_choice_that_is_not_a_list_of_distinct_texts_is_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: "):
        plan_choice(text, LIMITS)
