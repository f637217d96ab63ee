"""JSON guides: a JSON Schema, or any JSON value."""

from __future__ import annotations

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.grammar import Grammar
from llm_policy.guidance.grammar.json_text import JsonText
from llm_policy.guidance.json_reader import canonical_json, read_json
from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.nesting import max_nesting
from llm_policy.guidance.json_schema.schema_validator import build_schema_validator
from llm_policy.guidance.json_schema.values import ValueWriter
from llm_policy.guidance.plan.guide_plan import GuidePlan, planned
from llm_policy.release.guide_limits import GuideLimits


def plan_json_schema(schema_text: str | bytes, limits: GuideLimits, counting: Counting = Counting.BOUNDED) -> GuidePlan:
    """The guide for a JSON Schema.

    Raises:
        InvalidRequest: `schema_invalid` or `schema_too_complex`.
    """
    schema = read_json(schema_text, limits)
    draft = build_schema_validator(schema).draft
    unenforced, narrowed = KeywordReport(), KeywordReport()
    document = Document(schema, draft, limits)
    grammar = ValueWriter(document, limits, counting, unenforced, narrowed).write(document.root)
    return planned(
        grammar, canonical_json(schema), limits, unenforced, narrowed, max_nesting=max_nesting(document.root)
    )


def plan_json(limits: GuideLimits) -> GuidePlan:
    """The guide for any JSON value, without whitespace, because a model could emit whitespace endlessly."""
    grammar = Grammar("root")
    grammar.define("root", JsonText(grammar).any_value())
    return planned(grammar, "", limits)
