"""Writes a grammar as EBNF in the dialect of XGrammar 0.1.21 and later."""

from __future__ import annotations

from llm_policy.guidance.grammar.grammar import Grammar
from llm_policy.guidance.grammar.repeats import lower_repeats
from llm_policy.guidance.limits import check_limit
from llm_policy.release.guide_limits import GuideLimits


def write_ebnf(grammar: Grammar, limits: GuideLimits, *, copy_classes: bool) -> str:
    """The grammar's text, its repeats lowered (see `lower_repeats` for `copy_classes`); changes the grammar.

    Raises:
        InvalidRequest: `schema_too_complex`, the grammar is too large for the engine.
    """
    lower_repeats(grammar, copy_classes=copy_classes)
    check_limit("number of grammar rules", len(grammar.rules), limits.max_rules)
    text = grammar.text()
    check_limit("grammar size in bytes", len(text.encode()), limits.max_grammar_bytes)
    return text
