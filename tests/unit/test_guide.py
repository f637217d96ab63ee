"""Resolving what a client asked the answer to look like."""

import json

import pytest

from llm_policy.errors import Code, InvalidRequest
from llm_policy.guidance.guide import GuideResolver
from llm_policy.manifest import Guidance

ORDER = '{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]}'
RESOLVER = GuideResolver(Guidance(), {"order": ORDER})


def resolve(schema_id=None, guide_type=None, guide=None, default=None, resolver=RESOLVER):
    return resolver.resolve(schema_id, guide_type, guide, default)


def test_a_request_without_guide_and_default_is_unguided():
    assert resolve() is None


def test_empty_texts_count_as_not_given():
    assert resolve("", "", "") is None


def test_a_registered_schema_goes_by_its_name():
    assert resolve("order").schema_id == "order"


def test_the_tasks_schema_is_the_default():
    assert resolve(default="order").engine_text == ORDER


def test_a_clients_guide_goes_before_the_tasks_schema():
    assert resolve(guide_type="regex", guide="[a-z]+", default="order").kind == "regex"


def test_an_inline_schema_is_named_by_its_content_whatever_its_key_order():
    one = resolve(guide_type="json_schema", guide='{"type":"string","maxLength":3}')
    two = resolve(guide_type="json_schema", guide='{ "maxLength": 3, "type": "string" }')
    assert one.schema_id == two.schema_id
    assert one.schema_id.startswith("sha256:")
    assert len(one.schema_id) == len("sha256:") + 16


def test_the_engine_gets_the_clients_property_order():
    text = '{"properties":{"b":{},"a":{}}}'
    assert resolve(guide_type="json_schema", guide=text).engine_text == text


def test_json_needs_no_guide():
    assert resolve(guide_type="json").engine_type == "json"


def test_a_choice_reaches_the_engine_as_a_grammar():
    guide = resolve(guide_type="choice", guide='["yes", "no \\"x\\""]')
    assert guide.engine_type == "ebnf_grammar"
    assert guide.engine_text == 'root ::= "yes" | "no \\x22x\\x22"'


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"schema_id": "nope"}, Code.UNKNOWN_SCHEMA),
        ({"guide_type": "xml", "guide": "x"}, Code.UNKNOWN_GUIDE_TYPE),
        ({"guide": ORDER}, Code.INVALID_INPUT),
        ({"guide_type": "json_schema"}, Code.INVALID_INPUT),
        ({"guide_type": "regex", "guide": ""}, Code.INVALID_INPUT),
        ({"guide_type": "json", "guide": "{}"}, Code.INVALID_INPUT),
        ({"schema_id": "order", "guide_type": "json"}, Code.INVALID_INPUT),
        ({"guide_type": "json_schema", "guide": "{"}, Code.SCHEMA_INVALID),
        ({"guide_type": "json_schema", "guide": "3"}, Code.SCHEMA_INVALID),
        ({"guide_type": "json_schema", "guide": '{"minimum": NaN}'}, Code.SCHEMA_INVALID),
        ({"guide_type": "json_schema", "guide": "{} {}"}, Code.SCHEMA_INVALID),
        ({"guide_type": "regex", "guide": "a\0b"}, Code.SCHEMA_INVALID),
        ({"guide_type": "choice", "guide": "[]"}, Code.SCHEMA_TOO_COMPLEX),
        ({"guide_type": "choice", "guide": '["a", 1]'}, Code.SCHEMA_INVALID),
        ({"guide_type": "choice", "guide": '[""]'}, Code.SCHEMA_INVALID),
        ({"guide_type": "json_schema", "guide": "[" * 100_000}, Code.SCHEMA_TOO_COMPLEX),
        ({"guide_type": "json_schema", "guide": "[" * 1_000 + "]" * 1_000}, Code.SCHEMA_TOO_COMPLEX),
    ],
)
def test_a_guide_that_cannot_be_used_is_refused_and_never_dropped(arguments, code):
    with pytest.raises(InvalidRequest) as caught:
        resolve(**arguments)
    assert caught.value.code is code


def test_a_refusal_never_quotes_the_schema():
    with pytest.raises(InvalidRequest) as caught:
        resolve(guide_type="json_schema", guide='{"type": "secret-word", ')
    assert "secret" not in str(caught.value)


def test_inline_guides_can_be_switched_off():
    closed = GuideResolver(Guidance(allow_adhoc=False), {"order": ORDER})
    with pytest.raises(InvalidRequest, match="allow_adhoc"):
        resolve(guide_type="json", resolver=closed)
    assert resolve("order", resolver=closed).schema_id == "order"


def test_a_broken_registered_schema_fails_the_load_and_is_named():
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: registered schema bad: "):
        GuideResolver(Guidance(), {"bad": json.dumps({"type": "strin"})})
