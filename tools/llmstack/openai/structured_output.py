"""What constrains an answer: OpenAI's `response_format`, vLLM's spellings, and the release's own tasks and schemas."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from llmstack.openai.error import invalid, unsupported

GUIDES = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""The members of `OutputOptions` that may be a guide."""
JSON_OBJECT = '{"type":"object"}'


class JsonSchemaFormat(BaseModel):
    """A schema with a name. The answer is guided by it whether it is `strict` or not."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`; exactly one of its members."""

    model_config = ConfigDict(strict=True, extra="allow")

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None


class OutputOptions(BaseModel):
    """Every way to ask for structure; at most one may be used."""

    model_config = ConfigDict(strict=True, extra="allow")

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    schema_id: str | None = Field(None, description="A schema of the release, instead of one in the request.")
    task: str | None = Field(None, description="A task of the release, with its schema and sampling.")


class GuideSource(NamedTuple):
    """A guide of the ensemble, and the member of the request that asked for it."""

    param: str
    kind: str
    text: str


def read_guide(options: OutputOptions) -> GuideSource | None:
    """The guide that a request asks for; None for free text or a schema of the release.

    Raises:
        ApiError: more than one is given, or one can't be honoured.
    """
    found = [*_response_format(options.response_format), *_structured_outputs(options.structured_outputs)]
    found += _spellings(
        "guided_", options.guided_json, options.guided_regex, options.guided_choice, options.guided_grammar
    )
    if len(found) > 1:
        raise invalid(found[1].param, f"{found[0].param} and {found[1].param} were both given, at most one is allowed")
    return found[0] if found else None


def _response_format(given: ResponseFormat | None) -> list[GuideSource]:
    if given is None or given.type == "text":
        return []
    if given.type == "json_object":
        return [GuideSource("response_format", "json_schema", JSON_OBJECT)]
    if given.json_schema is None or given.json_schema.schema_ is None:
        raise invalid("response_format.json_schema.schema", "response_format.json_schema.schema is required")
    param = "response_format.json_schema.schema"
    return [GuideSource(param, "json_schema", _dump(param, given.json_schema.schema_))]


def _structured_outputs(given: StructuredOutputs | None) -> list[GuideSource]:
    if given is None:
        return []
    if given.structural_tag is not None:
        raise unsupported("structured_outputs.structural_tag", "structural tags are not supported")
    found = _spellings("structured_outputs.", given.json_, given.regex, given.choice, given.grammar)
    if given.json_object:
        found.append(GuideSource("structured_outputs.json_object", "json_schema", JSON_OBJECT))
    return found


def _spellings(
    prefix: str,
    schema: dict[str, Any] | str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
) -> list[GuideSource]:
    found = []
    if schema is not None:
        param = f"{prefix}json"
        text = schema if isinstance(schema, str) else _dump(param, schema)
        found.append(GuideSource(param, "json_schema", text))
    if regex is not None:
        found.append(GuideSource(f"{prefix}regex", "regex", regex))
    if choice is not None:
        found.append(GuideSource(f"{prefix}choice", "choice", json.dumps(choice, ensure_ascii=False)))
    if grammar is not None:
        found.append(GuideSource(f"{prefix}grammar", "ebnf_grammar", grammar))
    return found


def _dump(param: str, schema: dict[str, Any]) -> str:
    """The text of a schema, with its members in the client's order: the answer follows it."""
    try:
        return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):  # such as a number of more than 4,300 digits
        raise invalid(param, f"{param} can't be written as JSON") from None
