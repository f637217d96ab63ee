"""Regular rules are found and written without recursion."""

from __future__ import annotations

import pytest

from llm_policy.guidance.grammar.ebnf_reader import read_ebnf
from llm_policy.guidance.grammar.grammar import EMPTY, Literal, Rule, choice, references, repeat, sequence
from llm_policy.guidance.grammar.regular_rules import MAX_EQUATIONS, factored, regular_rules, without_tail_recursion
from llm_policy.release.guide_limits import GuideLimits

A, B, X, Y = Literal("a"), Literal("b"), Rule("x"), Rule("y")


def _regular(text: str) -> set[str]:
    return set(regular_rules(read_ebnf(text, GuideLimits())))


def test_rules_without_recursion_are_regular() -> None:
    assert _regular('root ::= "a" x\nx ::= y y\ny ::= [0-9]+') == {"root", "x", "y"}


def test_recursion_at_the_end_of_an_option_is_regular() -> None:
    assert "root" in _regular('root ::= "a" root | "b"')


def test_an_optional_recursion_at_the_end_is_regular() -> None:
    assert "root" in _regular('root ::= "a" root? ')


def test_rules_that_end_with_each_other_are_regular() -> None:
    assert {"root", "x"} <= _regular('root ::= "a" x | "c"\nx ::= "b" root | "d" x | "e"')


@pytest.mark.parametrize(
    "text",
    ['root ::= "(" root ")" | "a"', 'root ::= root "a" | "b"', 'root ::= ("a" root)* "b"', 'root ::= root root | "a"'],
)
def test_recursion_elsewhere_is_not_regular(text: str) -> None:
    assert _regular(text) == set()


def test_a_rule_that_refers_to_an_irregular_one_is_not_regular() -> None:
    assert _regular('root ::= x "c"\nx ::= "(" x ")" | y\ny ::= "a"') == {"y"}


def test_the_result_refers_only_to_earlier_rules() -> None:
    text = 'root ::= "a" x | "b" y\nx ::= "c" y | "d" root | "e"\ny ::= "f" x | "g" root | "h" y | "i"'
    seen: set[str] = set()
    for name, expression in regular_rules(read_ebnf(text, GuideLimits())).items():
        assert set(references(expression)) <= seen
        seen.add(name)


def test_a_recursive_component_over_the_bound_is_not_regular() -> None:
    size = MAX_EQUATIONS + 1
    rules = [f'r{i} ::= "a" r{(i + 1) % size} | "b"' for i in range(size)]
    assert _regular("\n".join(["root ::= r0", *rules])) == set()


def test_a_component_whose_elimination_grows_too_much_is_not_regular() -> None:
    names = [f"r{i}" for i in range(60)]
    options = " | ".join(f'"{chr(97 + i % 26)}" {name}' for i, name in enumerate(names))
    rules = [f'{name} ::= {options} | "z"' for name in names]
    assert _regular("\n".join(["root ::= r0", *rules])) == set()


def test_a_recursion_at_the_end_becomes_a_repeat_although_the_head_refers_to_the_rule() -> None:
    nested = choice(sequence(A, X, B, X), EMPTY)
    assert without_tail_recursion("x", nested) == repeat(sequence(A, X, B), 0, None)


def test_a_rule_that_ends_no_option_stays() -> None:
    nested = choice(sequence(A, X, B), A)
    assert without_tail_recursion("x", nested) == nested


def test_a_common_last_rule_is_taken_out_of_a_choice() -> None:
    assert factored(choice(sequence(A, X), sequence(B, X), A)) == choice(sequence(choice(A, B), X), A)


def test_options_with_different_last_rules_stay() -> None:
    options = choice(sequence(A, X), sequence(B, Y))
    assert factored(options) == options


def test_runs_of_characters_between_others_become_one_repeated_choice() -> None:
    """llguidance computes the masks of `(a | b)*` faster than those of `(a* b)* a*`."""
    found = regular_rules(read_ebnf('root ::= [xy]* ("!" | "-" root)', GuideLimits()))["root"]
    characters = read_ebnf("root ::= [xy]", GuideLimits()).rules["root"]
    assert found == sequence(repeat(choice(characters, Literal("-")), 0, None), Literal("!"))
