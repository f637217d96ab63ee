"""Each spelling of structured output is one guide of the ensemble."""

from __future__ import annotations

import json

import pytest

from llmstack.openai.error import ApiError
from llmstack.openai.structured_output import OutputOptions, read_guide

SCHEMA = {"type": "object", "properties": {"z": {}, "a": {}}}
SCHEMA_TEXT = '{"type":"object","properties":{"z":{},"a":{}}}'
OBJECT_TEXT = '{"type":"object"}'


def strict_format(strict):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": strict}}


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", OBJECT_TEXT),
        ({"response_format": strict_format(True)}, "json_schema", SCHEMA_TEXT),
        ({"response_format": strict_format(False)}, "json_schema", SCHEMA_TEXT),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA_TEXT),
        ({"guided_json": "{}"}, "json_schema", "{}"),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["é", '"']}, "choice", '["é", "\\""]'),
        ({"guided_grammar": "root ::= 'a'"}, "ebnf_grammar", "root ::= 'a'"),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA_TEXT),
        ({"structured_outputs": {"json_object": True}}, "json_schema", OBJECT_TEXT),
        ({"structured_outputs": {"regex": "a"}}, "regex", "a"),
        ({"structured_outputs": {"choice": ["a"]}}, "choice", '["a"]'),
        ({"structured_outputs": {"grammar": "g"}}, "ebnf_grammar", "g"),
    ],
)
def test_a_spelling_is_a_guide_with_the_clients_order_of_members(options, kind, text):
    guide = read_guide(OutputOptions.model_validate_json(json.dumps(options)))
    assert guide[1:] == (kind, text)


@pytest.mark.parametrize("options", [{}, {"response_format": {"type": "text"}}, {"schema_id": "order", "task": "a"}])
def test_free_text_and_registered_schemas_are_no_guide(options):
    assert read_guide(OutputOptions.model_validate(options)) is None


def test_a_number_that_can_not_be_written_is_refused():
    options = OutputOptions.model_construct(guided_json={"const": 10**5000}, response_format=None)
    with pytest.raises(ApiError) as raised:
        read_guide(options)
    assert raised.value.param == "guided_json"
