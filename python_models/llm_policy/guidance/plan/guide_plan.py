"""The result of every planner: a grammar of our own, bounded in size.

Clients' guides are rewritten because the libraries' own readers silently ignore keywords, take minutes for some real
schemas, or crash on some inputs of a few kilobytes. A planned grammar states exactly what is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_policy.guidance.grammar.grammar import Grammar
from llm_policy.guidance.json_schema.keyword_report import KeywordFinding, KeywordReport
from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.release.guide_limits import GuideLimits


@dataclass(frozen=True)
class GuidePlan:
    """A guide as a grammar, which a backend writes in its own language."""

    grammar: Grammar
    canonical: str
    """The guide's identity: RFC 8785 text of the client's JSON, or the client's own text if it is not JSON."""
    unenforced: tuple[KeywordFinding, ...] = ()
    """Keywords that the grammar does not enforce, or only in part."""
    narrowed: tuple[KeywordFinding, ...] = ()
    """Places where the grammar intentionally allows less than the schema."""
    max_nesting: int = 0
    """How deep the client's schema nests; 0 for other guides."""


def planned(
    grammar: Grammar,
    canonical: str,
    limits: GuideLimits,
    unenforced: KeywordReport | None = None,
    narrowed: KeywordReport | None = None,
    *,
    max_nesting: int = 0,
) -> GuidePlan:
    """Check the size of a finished grammar.

    Raises:
        InvalidRequest: `schema_too_complex`, the shortest text is too long for a completion.
    """
    shortest = grammar.shortest_lengths().get(grammar.root, 0)
    check_limit("characters of the shortest output", int(shortest), limits.max_shortest_text)
    return GuidePlan(
        grammar,
        canonical,
        unenforced.findings() if unenforced else (),
        narrowed.findings() if narrowed else (),
        max_nesting,
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
