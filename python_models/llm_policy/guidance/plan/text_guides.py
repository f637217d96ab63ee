"""Guides for plain text: a regex, and a choice among given texts."""

from __future__ import annotations

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.grammar import Grammar, Literal, choice, one_of
from llm_policy.guidance.json_reader import canonical_json, read_json
from llm_policy.guidance.limits import check_limit, invalid, too_complex
from llm_policy.guidance.plan.automata_budget import AutomataBudget
from llm_policy.guidance.plan.guide_plan import GuidePlan, decode_text, planned
from llm_policy.guidance.regex.dfa_writer import text_expression
from llm_policy.guidance.regex.pattern_expression import pattern_expression
from llm_policy.guidance.regex.search import full_match, num_broad
from llm_policy.guidance.regex.syntax import (
    ANYTHING,
    Alternation,
    Concat,
    InvalidRegex,
    RegexNode,
    RegexTooComplex,
    parse_regex,
    unsupported_features,
)
from llm_policy.release.guide_limits import GuideLimits


def plan_regex(text: str | bytes, limits: GuideLimits, counting: Counting = Counting.BOUNDED) -> GuidePlan:
    """The guide for a regex that the whole output must match; `^` and `$` at its ends are redundant.

    Its counts are never relaxed, because nothing validates the finished text. For XGrammar it is written as its
    automaton if that compiles fast enough.

    Raises:
        InvalidRequest: `schema_invalid` (not a regex, an unsupported feature, or no text matches) or
            `schema_too_complex`.
    """
    pattern = decode_text(text)
    tree = _full_text(_parsed(pattern, limits))
    if unsupported := unsupported_features(tree):
        raise invalid(f"the regex uses {unsupported[0]}, which is not supported")
    check_limit("positions of the regex that accept any character", num_broad(tree), limits.max_broad_states)
    grammar = Grammar("root")
    dfa = None if counting in (Counting.EXACT, Counting.NONE) else AutomataBudget(limits, counting).dfa(tree)
    grammar.define("root", pattern_expression(tree, one_of) if dfa is None else text_expression(dfa, grammar))
    if not grammar.prune():
        raise invalid("no text matches the regex")
    return planned(grammar, pattern, limits)


def plan_choice(list_json_text: str | bytes, limits: GuideLimits) -> GuidePlan:
    """The guide for one text out of a JSON array of distinct, non-empty strings.

    Raises:
        InvalidRequest: `schema_invalid` or `schema_too_complex`.
    """
    choices = read_json(list_json_text, limits)
    if not isinstance(choices, list) or not all(isinstance(item, str) and item for item in choices):
        raise invalid("a choice must be a JSON array of non-empty strings")
    check_limit("number of choices", len(choices), limits.max_choices)
    if not choices or len(set(choices)) != len(choices):
        raise invalid("a choice must have at least one string, without duplicates")
    for item in choices:
        check_limit("size of a choice in bytes", len(item.encode()), limits.max_string_bytes)
    grammar = Grammar("root")
    grammar.define("root", choice(*map(Literal, choices)))
    return planned(grammar, canonical_json(choices), limits)


def _parsed(pattern: str, limits: GuideLimits) -> RegexNode:
    try:
        return parse_regex(pattern, limits)
    except InvalidRegex as error:
        raise invalid(f"the regex has {error}") from None
    except RegexTooComplex as error:
        raise too_complex(error.what, error.given, error.limit) from None


def _full_text(tree: RegexNode) -> RegexNode:
    """The tree for the whole text: a full match without ANYTHING at its ends."""
    found = full_match(tree)
    branches = found.options if isinstance(found, Alternation) else (found,)
    return Alternation(tuple(_without_open_ends(branch) for branch in branches))


def _without_open_ends(branch: RegexNode) -> RegexNode:
    """`full_match` returns every branch as a Concat with ANYTHING at each end without an anchor."""
    parts = list(branch.parts) if isinstance(branch, Concat) else [branch]
    if parts and parts[0] is ANYTHING:
        parts = parts[1:]
    if parts and parts[-1] is ANYTHING:
        parts = parts[:-1]
    return Concat(tuple(parts))
