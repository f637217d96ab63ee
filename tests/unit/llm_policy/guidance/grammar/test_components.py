"""Strongly connected components of references."""

from __future__ import annotations

from llm_policy.guidance.grammar.components import components


def test_a_component_comes_after_those_it_refers_to() -> None:
    assert list(components({"a": ["b"], "b": ["c"], "c": []})) == [["c"], ["b"], ["a"]]


def test_rules_that_refer_to_each_other_are_one_component() -> None:
    found = list(components({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}))
    assert [set(component) for component in found] == [{"d"}, {"b", "c"}, {"a"}]


def test_rules_that_no_other_refers_to_are_found() -> None:
    assert list(components({"a": [], "b": ["a"], "c": ["a"]})) == [["a"], ["b"], ["c"]]


def test_a_long_chain_needs_no_recursion() -> None:
    size = 5_000
    chain = {str(i): [str(i + 1)] for i in range(size)} | {str(size): []}
    assert len(list(components(chain))) == size + 1
