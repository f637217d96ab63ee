"""Resolving a row's schema id or inline guide."""

import pytest

from llm_policy.errors import Code, InvalidRequest
from llm_policy.guidance.guide import GuideResolver
from llm_policy.release.manifest import Guidance

ORDER = '{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]}'
RESOLVER = GuideResolver(Guidance(), {"order": ORDER})


def resolve(schema_id=None, guide_type=None, guide=None, default=None, resolver=RESOLVER):
    return resolver.resolve(schema_id, guide_type, guide, default)


def test_without_a_guide_and_a_default_a_row_is_unguided():
    assert resolve() is None


def test_empty_texts_count_as_not_given():
    assert resolve("", "", "") is None


def test_a_registered_schema_is_resolved_by_its_name():
    assert resolve("order") == ("json_schema", ORDER, "order")


def test_the_schema_of_the_task_is_the_default():
    assert resolve(default="order").name == "order"


def test_an_inline_guide_overrides_the_schema_of_the_task():
    assert resolve(guide_type="regex", guide="[a-z]+", default="order") == ("regex", "[a-z]+", "")


def test_the_type_json_needs_no_guide_text():
    assert resolve(guide_type="json").kind == "json"


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
        ({"guide_type": "regex", "guide": "a" * 300_000}, Code.SCHEMA_TOO_COMPLEX),
    ],
)
def test_an_unusable_guide_is_an_error_and_never_ignored(arguments, code):
    with pytest.raises(InvalidRequest) as caught:
        resolve(**arguments)
    assert caught.value.code is code


def test_inline_guides_can_be_disabled():
    closed = GuideResolver(Guidance(allow_adhoc=False), {"order": ORDER})
    with pytest.raises(InvalidRequest, match="allow_adhoc"):
        resolve(guide_type="json", resolver=closed)
    assert resolve("order", resolver=closed).name == "order"
