"""How much of a guide's counts each level writes into the grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.ebnf_writer import final_rules, write_ebnf
from llm_policy.guidance.grammar.grammar import (
    Chars,
    Choice,
    Expression,
    Grammar,
    Literal,
    Repeat,
    Rule,
    Sequence,
    choice,
    repeat,
    sequence,
)
from llm_policy.guidance.json_schema.keyword_report import KeywordFinding
from llm_policy.guidance.plan.ebnf_guide import plan_ebnf
from llm_policy.guidance.plan.guide_plan import GuidePlan
from llm_policy.guidance.plan.json_schema_guide import plan_json_schema
from llm_policy.guidance.plan.text_guides import plan_regex
from llm_policy.release.guide_limits import GuideLimits
from tests.grammar_check import accepts, compile_plan

LIMITS = GuideLimits()
FOR_XGRAMMAR = (Counting.WRITTEN_OUT, Counting.BOUNDED, Counting.NONE)


def plan(schema: Any, counting: Counting) -> GuidePlan:
    return plan_json_schema(json.dumps(schema), LIMITS, counting)


def keywords(found: GuidePlan) -> list[str]:
    return [finding.keyword for finding in found.unenforced]


def counted_groups(expression: Expression) -> list[Repeat]:
    """Repeats of anything but a class, more often than a rule may contain copies."""
    if isinstance(expression, Repeat):
        is_counted = max(expression.min_count, expression.max_count or 0) > 4 and not isinstance(expression.part, Chars)
        return [expression] * is_counted + counted_groups(expression.part)
    parts = expression.parts if isinstance(expression, Sequence) else ()
    options = expression.options if isinstance(expression, Choice) else ()
    return [found for part in (*parts, *options) for found in counted_groups(part)]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 200},
        {"type": "string", "minLength": 20, "maxLength": 2_000},
        {"type": "string", "pattern": r"^(\w+ ?){1,60}$"},
        {"type": "string", "pattern": "^[a-z]{1,100}$"},
        {"type": "string", "pattern": "^(ab|cd){1,50}$", "maxLength": 60},
        {"type": "array", "items": {"type": "string", "maxLength": 30}},
        {
            "anyOf": [
                {"type": "object", "properties": {f"k{i}": {"type": "string", "maxLength": 15}}} for i in range(20)
            ]
        },
    ],
)
@pytest.mark.parametrize("counting", FOR_XGRAMMAR)
def test_no_string_is_counted_by_reference_for_xgrammar(schema: Any, counting: Counting) -> None:
    rules = plan(schema, counting).grammar.rules.values()
    assert [repeat for expression in rules for repeat in counted_groups(expression)] == []


@pytest.mark.parametrize(("low", "high"), [(0, 1_000), (20, 3_000), (0, 99_999)])
def test_every_length_is_exact_for_llguidance(low: int, high: int) -> None:
    found = plan({"type": "string", "minLength": low, "maxLength": high}, Counting.EXACT)
    assert found.unenforced == ()
    counts = {(r.min_count, r.max_count) for e in found.grammar.rules.values() for r in counted_groups(e)}
    assert counts == {(low, high)}


def test_a_registered_schema_counts_as_far_as_the_limit() -> None:
    compiled = compile_plan(plan({"type": "string", "maxLength": 512}, Counting.WRITTEN_OUT))
    assert [accepts(compiled, json.dumps("x" * length)) for length in (0, 512, 513)] == [True, True, False]
    assert keywords(plan({"type": "string", "maxLength": 513}, Counting.WRITTEN_OUT)) == ["maxLength"]


def test_a_maximum_beyond_the_budget_is_dropped_and_a_minimum_reduced() -> None:
    found = plan({"type": "string", "minLength": 50, "maxLength": 900}, Counting.BOUNDED)
    assert [(item.keyword, item.reason) for item in found.unenforced] == [
        ("maxLength", "counting so many characters costs too much"),
        ("minLength", "counting so many characters costs too much, enforced is 20"),
    ]
    compiled = compile_plan(found)
    assert [accepts(compiled, json.dumps("x" * length)) for length in (19, 20, 901)] == [False, True, True]


def test_a_minimum_of_one_survives_an_empty_budget() -> None:
    limits = GuideLimits(max_string_cost_ms=1)
    text = json.dumps({"type": "string", "minLength": 9})
    compiled = compile_plan(plan_json_schema(text, limits, Counting.BOUNDED))
    assert [accepts(compiled, text) for text in ('""', '"x"')] == [False, True]


def test_equal_constraints_are_written_once_and_reported_at_each_place() -> None:
    long = {"type": "string", "maxLength": 900}
    found = plan({"type": "object", "properties": {"a": long, "b": {**long, "title": "B"}}}, Counting.BOUNDED)
    assert found.unenforced == tuple(
        KeywordFinding(f"/properties/{name}", "maxLength", "counting so many characters costs too much")
        for name in "ab"
    )


def test_counts_of_a_pattern_beyond_the_budget_are_relaxed_and_reported() -> None:
    schema = {"type": "string", "pattern": r"^\w+(-\w{1,90}){1,90}$"}
    found = plan(schema, Counting.BOUNDED)
    assert keywords(found) == ["pattern"]
    assert [accepts(compile_plan(found), json.dumps(text)) for text in ("a-b", "a", "a--b")] == [True, False, False]


def test_a_length_beside_a_format_is_reported() -> None:
    found = plan({"type": "string", "format": "uri", "maxLength": 255}, Counting.BOUNDED)
    assert keywords(found) == ["maxLength"]
    compiled = compile_plan(found)
    assert accepts(compiled, '"https://example.com/a"')
    assert not accepts(compiled, '"no uri"')


def test_items_are_counted_unless_nothing_is() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 6, "maxItems": 50}
    assert keywords(plan(schema, Counting.BOUNDED)) == []
    found = plan(schema, Counting.NONE)
    assert keywords(found) == ["maxItems", "minItems"]
    assert [accepts(compile_plan(found), text) for text in ("[]", "[1]")] == [False, True]


@pytest.mark.parametrize(
    "regex", [r"[a-z]{1,100}", r"(\w+\s?)+", r"(\w+ ?){1,20}", r"(a*)*b7", r"(.*a){1,40}", r"[^\n]{0,20}"]
)
def test_a_regex_becomes_an_automaton_for_xgrammar(regex: str) -> None:
    rules = plan_regex(regex, LIMITS, Counting.BOUNDED).grammar.rules
    assert not [repeat for expression in rules.values() for repeat in counted_groups(expression)]
    assert len([name for name in rules if name.startswith("a")]) == len(rules) - 1


def test_a_regex_beyond_the_budget_stays_as_it_is() -> None:
    regex = r"[^\n]{0,400}"
    bounded, none = (plan_regex(regex, LIMITS, counting) for counting in (Counting.BOUNDED, Counting.NONE))
    assert bounded.grammar.rules == none.grammar.rules


def test_the_repeating_parts_of_a_grammar_that_is_not_regular_become_automata() -> None:
    text = 'root ::= "(" root ")" | "<" ([a-z]+ " "?){1,9} ">"'
    rules = plan_ebnf(text, LIMITS, Counting.BOUNDED).grammar.rules
    assert not [repeat for expression in rules.values() for repeat in counted_groups(expression)]
    compiled = compile_plan(plan_ebnf(text, LIMITS, Counting.BOUNDED), copy_classes=False)
    assert [accepts(compiled, t) for t in ("((<ab c>))", "<a>", "(<a>", "<>")] == [True, True, False, False]


def test_only_rules_at_the_end_of_the_output_get_a_lookahead() -> None:
    grammar = plan_ebnf(
        'root ::= a b\na ::= "x" c | "(" a ")"\nb ::= "y" d\nc ::= "z" | "(" c ")"\nd ::= "v" d | "w"', LIMITS
    )
    text = write_ebnf(grammar.grammar, LIMITS, copy_classes=False)
    for line in text.splitlines():
        name = line.partition(" ::= ")[0]
        assert ("(= " in line) == (name in final_rules(grammar.grammar))
    assert "(= " in text


def test_a_rule_inside_a_final_rule_is_final_only_at_its_end() -> None:
    grammar = Grammar("root")
    grammar.define("root", choice(sequence(Rule("p"), Rule("q")), repeat(Rule("s"), 0, None)))
    grammar.define("p", Literal("p"))
    grammar.define("q", choice(repeat(Rule("r"), 0, 1), sequence(Literal("q"), Rule("r"))))
    grammar.define("r", Literal("r"))
    grammar.define("s", Literal("s"))
    assert final_rules(grammar) == {"q", "r"}
