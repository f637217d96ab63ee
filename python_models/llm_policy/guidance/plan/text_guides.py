"""Guides that are no JSON Schema: a regex, and a choice among given texts.

Both become grammars of our own, so XGrammar's own regex reader, which a few kilobytes can
crash, never sees a client's text.
"""

from __future__ import annotations

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.grammar.grammar import NOTHING, Chars, Expression, Grammar, Literal, choice
from llm_policy.guidance.json_reader import canonical_json, read_json
from llm_policy.guidance.limits import check_limit, invalid, too_complex
from llm_policy.guidance.plan.planner import PlannedGuide, planned
from llm_policy.guidance.regex.pattern_text import pattern_expression
from llm_policy.guidance.regex.search import full_match, num_broad
from llm_policy.guidance.regex.syntax import (
    ANYTHING,
    Concat,
    Either,
    RegexFault,
    RegexNode,
    RegexTooComplex,
    feature_gaps,
    parse_regex,
)
from llm_policy.release.guide_limits import GuideLimits


def plan_regex(text: str | bytes, limits: GuideLimits) -> PlannedGuide:
    """The guide for a regex that the whole output must match; `^` and `$` at its ends change nothing.

    Raises `schema_invalid` (no regex, a feature that no grammar has, nothing matches) and `schema_too_complex`.
    """
    pattern = decoded(text)
    tree = _whole(_parsed(pattern, limits))
    gaps = feature_gaps(tree)
    if gaps:
        raise invalid(f"the regex uses {gaps[0]}, which is not supported")
    check_limit("places of the regex that take any character", num_broad(tree), limits.max_broad_states)
    grammar = Grammar("root")
    grammar.define("root", pattern_expression(tree, plain_character))
    if not grammar.prune():
        raise invalid("no text matches the regex")
    return planned(grammar, pattern, limits, copy_classes=False)


def plan_choice(list_json_text: str | bytes, limits: GuideLimits) -> PlannedGuide:
    """The guide for one text out of a JSON array of distinct, non-empty strings."""
    choices = read_json(list_json_text, limits)
    if not isinstance(choices, list) or not all(isinstance(item, str) and item for item in choices):
        raise invalid("a choice is a JSON array of non-empty strings")
    check_limit("number of choices", len(choices), limits.max_choices)
    if not choices or len(set(choices)) != len(choices):
        raise invalid("a choice needs one string or more, each given once")
    for item in choices:
        check_limit("size of a choice in bytes", len(item.encode()), limits.max_string_bytes)
    grammar = Grammar("root")
    grammar.define("root", choice(*map(Literal, choices)))
    return planned(grammar, canonical_json(choices), limits)


def decoded(text: str | bytes) -> str:
    """The text of a guide. Raises `schema_invalid` when it is no UTF-8 or holds a NUL."""
    try:
        found = text.decode("utf-8") if isinstance(text, bytes) else text
        found.encode("utf-8")
    except UnicodeError:
        raise invalid("the text is not UTF-8") from None
    if not found or "\0" in found:
        raise invalid("the text is empty or holds a NUL character")
    return found


def plain_character(codes: CodeSet) -> Expression:
    """One character of the set as itself."""
    if not codes:
        return NOTHING
    return Literal(chr(codes.ranges[0][0])) if codes.size() == 1 else Chars(codes)


def _parsed(pattern: str, limits: GuideLimits) -> RegexNode:
    try:
        return parse_regex(pattern, limits)
    except RegexFault as fault:
        raise invalid(f"the regex has {fault}") from None
    except RegexTooComplex as fault:
        raise too_complex(fault.what, fault.given, fault.limit) from None


def _whole(tree: RegexNode) -> RegexNode:
    """The tree for the whole text: a search whose open ends are closed."""
    found = full_match(tree)
    branches = found.options if isinstance(found, Either) else (found,)
    return Either(tuple(_without_open_ends(branch) for branch in branches))


def _without_open_ends(branch: RegexNode) -> RegexNode:
    """`full_match` writes every branch as a row, with ANYTHING where no anchor stood."""
    parts = list(branch.parts) if isinstance(branch, Concat) else [branch]
    if parts and parts[0] is ANYTHING:
        parts = parts[1:]
    if parts and parts[-1] is ANYTHING:
        parts = parts[:-1]
    return Concat(tuple(parts))
