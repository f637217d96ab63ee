"""What one alternative of a schema demands of a string."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from llm_policy.guidance.json_schema.formats import ASSERTED_WITHOUT_PATTERN, FORMAT_PATTERNS
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.subschema import EXCLUDED, Subschema


class PatternSource(NamedTuple):
    """A regex and the keyword from which it comes."""

    pointer: str
    keyword: str
    regex: str


@dataclass(frozen=True)
class StringConstraints:
    """What one alternative demands of a string."""

    min_length: int = 0
    max_length: int | None = None
    sources: tuple[PatternSource, ...] = ()
    excluded: frozenset[str] = frozenset()
    pointer: str = ""


def string_constraints(subschemas: Iterable[Subschema], unenforced: KeywordReport) -> StringConstraints:
    """The string constraints of all subschemas of one alternative together."""
    min_length, max_length, pointer = 0, None, ""
    sources: dict[str, PatternSource] = {}
    excluded: set[str] = set()
    for subschema in subschemas:
        keywords = subschema.keywords
        min_length = max(min_length, keywords.get("minLength", 0))
        if "maxLength" in keywords:
            max_length = keywords["maxLength"] if max_length is None else min(max_length, keywords["maxLength"])
        if "minLength" in keywords or "maxLength" in keywords:
            pointer = subschema.pointer
        if "pattern" in keywords:
            sources.setdefault(keywords["pattern"], PatternSource(subschema.pointer, "pattern", keywords["pattern"]))
        if keywords.get("format") in FORMAT_PATTERNS:
            pattern = FORMAT_PATTERNS[keywords["format"]]
            sources.setdefault(pattern, PatternSource(subschema.pointer, "format", pattern))
        elif keywords.get("format") in ASSERTED_WITHOUT_PATTERN:
            unenforced.add(subschema.pointer, "format", "no grammar for this format")
        excluded.update(value for value in keywords.get(EXCLUDED, ()) if isinstance(value, str))
    return StringConstraints(min_length, max_length, tuple(sources.values()), frozenset(excluded), pointer)
