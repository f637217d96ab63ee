"""From what the client sent to the guide that the engine gets.

Every guide becomes an `ebnf_grammar` of our own making. XGrammar's own JSON-schema converter ignores a third of the
vocabulary without a word and takes minutes over some real schemas; a grammar says exactly what is meant, compiles in
milliseconds and is bounded in size before the engine sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_policy.guidance.grammar.grammar import Grammar
from llm_policy.guidance.grammar.json_text import JsonText
from llm_policy.guidance.grammar.repeats import lower_repeats
from llm_policy.guidance.json_reader import canonical_json, read_json
from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordFinding, KeywordReport
from llm_policy.guidance.json_schema.schema_validator import build_schema_validator
from llm_policy.guidance.json_schema.values import ValueWriter
from llm_policy.guidance.limits import check_limit
from llm_policy.release.guide_limits import GuideLimits


@dataclass(frozen=True)
class PlannedGuide:
    """The guide for the engine, and what is known about it."""

    guide_type: str
    """What the engine is told: always one of its four guide types."""
    guide: str
    """The text that goes with it."""
    canonical: str
    """RFC 8785 text of the client's schema (or the client's own text, for a guide that is no JSON): its identity."""
    unenforced: tuple[KeywordFinding, ...] = ()
    """Keywords that the grammar does not follow, or only in part: (pointer, keyword, reason)."""
    narrowed: tuple[KeywordFinding, ...] = ()
    """Places where the grammar offers less than the schema allows, on purpose."""
    num_rules: int = 0
    num_bytes: int = 0


def plan_json_schema(schema_text: str | bytes, limits: GuideLimits) -> PlannedGuide:
    """The guide for a JSON Schema. Raises `schema_invalid` and `schema_too_complex`."""
    schema = read_json(schema_text, limits)
    judge = build_schema_validator(schema)
    report, narrowed = KeywordReport(), KeywordReport()
    document = Document(schema, judge.draft, limits)
    grammar = ValueWriter(document, limits, report, narrowed).write(document.root)
    return planned(grammar, canonical_json(schema), limits, report, narrowed)


def plan_json(limits: GuideLimits) -> PlannedGuide:
    """The guide for any JSON value: compact, so that blanks cannot go on for ever."""
    grammar = Grammar("root")
    grammar.define("root", JsonText(grammar).any_value())
    return planned(grammar, "", limits)


def planned(
    grammar: Grammar,
    canonical: str,
    limits: GuideLimits,
    report: KeywordReport | None = None,
    narrowed: KeywordReport | None = None,
    *,
    copy_classes: bool = True,
) -> PlannedGuide:
    """The finished guide. Raises `schema_too_complex` when the grammar is too large for the engine."""
    shortest = grammar.shortest_lengths().get(grammar.root, 0)
    check_limit("characters of the shortest output", int(shortest), limits.max_shortest_text)
    lower_repeats(grammar, copy_classes=copy_classes)
    check_limit("number of grammar rules", len(grammar.rules), limits.max_rules)
    text = grammar.text()
    size = len(text.encode("utf-8"))
    check_limit("grammar size in bytes", size, limits.max_grammar_bytes)
    return PlannedGuide(
        guide_type="ebnf_grammar",
        guide=text,
        canonical=canonical,
        unenforced=report.findings() if report else (),
        narrowed=narrowed.findings() if narrowed else (),
        num_rules=len(grammar.rules),
        num_bytes=size,
    )
