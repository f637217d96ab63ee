"""The patterns of formats agree with the validator."""

import re

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_policy.guidance.json_schema.formats import FORMAT_PATTERNS

IS_URI_TEMPLATE = jsonschema_rs.Draft202012Validator({"format": "uri-template"}, validate_formats=True).is_valid
URI_TEMPLATE = re.compile(FORMAT_PATTERNS["uri-template"])


@pytest.mark.parametrize("text", ["", "http://a/{b}", "{+x,y*}{?z:30}", "%41{a.b}", "it's", "é{x}"])
def test_a_uri_template_is_accepted(text):
    assert URI_TEMPLATE.match(text)
    assert IS_URI_TEMPLATE(text)


@pytest.mark.parametrize("text", ["{", "}", "{}", "{x:03}", "a b", "%4", "{x.}", 'a"b', "a\\b"])
def test_what_is_no_uri_template_is_rejected(text):
    assert not URI_TEMPLATE.match(text)
    assert not IS_URI_TEMPLATE(text)


@given(st.text("{}+#?,*:.%4a_0 '", max_size=12))
def test_the_pattern_of_uri_templates_accepts_all_that_the_validator_accepts(text):
    assert URI_TEMPLATE.match(text) or not IS_URI_TEMPLATE(text)
