"""The result of every planner: a grammar of our own, bounded in size, as EBNF text.

Clients' guides are rewritten because XGrammar's own JSON Schema converter silently ignores a third of the keywords and
takes minutes for some real schemas, and because its regex reader crashes on some inputs of a few kilobytes. A planned
grammar states exactly what is meant and compiles in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_policy.guidance.grammar.grammar import Grammar
from llm_policy.guidance.grammar.repeats import lower_repeats
from llm_policy.guidance.json_schema.keyword_report import KeywordFinding, KeywordReport
from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.release.guide_limits import GuideLimits


@dataclass(frozen=True)
class PlannedGuide:
    """The engine's form of a guide, and what is known about it."""

    guide_type: str
    """The engine's guide type; always `ebnf_grammar`."""
    guide: str
    """The grammar as EBNF text."""
    canonical: str
    """The guide's identity: RFC 8785 text of the client's JSON, or the client's own text if it is not JSON."""
    unenforced: tuple[KeywordFinding, ...] = ()
    """Keywords that the grammar does not enforce, or only in part."""
    narrowed: tuple[KeywordFinding, ...] = ()
    """Places where the grammar intentionally allows less than the schema."""
    num_rules: int = 0
    num_bytes: int = 0


def planned(
    grammar: Grammar,
    canonical: str,
    limits: GuideLimits,
    unenforced: KeywordReport | None = None,
    narrowed: KeywordReport | None = None,
    *,
    copy_classes: bool = True,
) -> PlannedGuide:
    """Finish a guide: lower the grammar's repeats (see `lower_repeats` for `copy_classes`) and write its text.

    Raises:
        InvalidRequest: `schema_too_complex`, the grammar is too large for the engine.
    """
    shortest = grammar.shortest_lengths().get(grammar.root, 0)
    check_limit("characters of the shortest output", int(shortest), limits.max_shortest_text)
    lower_repeats(grammar, copy_classes=copy_classes)
    check_limit("number of grammar rules", len(grammar.rules), limits.max_rules)
    text = grammar.text()
    num_bytes = len(text.encode("utf-8"))
    check_limit("grammar size in bytes", num_bytes, limits.max_grammar_bytes)
    return PlannedGuide(
        guide_type="ebnf_grammar",
        guide=text,
        canonical=canonical,
        unenforced=unenforced.findings() if unenforced else (),
        narrowed=narrowed.findings() if narrowed else (),
        num_rules=len(grammar.rules),
        num_bytes=num_bytes,
    )


def decode_text(text: str | bytes) -> str:
    """The text of a guide that is not JSON.

    Raises:
        InvalidRequest: `schema_invalid`, the text is empty, not UTF-8, or contains NUL.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        decoded.encode("utf-8")
    except UnicodeError:
        raise invalid("the text is not UTF-8") from None
    if not decoded or "\0" in decoded:
        raise invalid("the text is empty or contains a NUL character")
    return decoded
