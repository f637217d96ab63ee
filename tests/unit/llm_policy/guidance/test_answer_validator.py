"""The check behind `schema_valid`."""

import pytest

from llm_policy.guidance.answer_validator import MAX_VALIDATORS, AnswerValidator

SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","maximum":3}},"required":["n"]}'
VALIDATOR = AnswerValidator()


@pytest.mark.parametrize(("answer", "valid"), [('{"n":3}', True), ('{"n":4}', False), ("{}", False), ('{"n":', False)])
def test_an_answer_is_validated_against_its_schema(answer, valid):
    assert VALIDATOR.is_valid("json_schema", SCHEMA, answer, complete=True) is valid


def test_a_truncated_answer_is_never_valid():
    assert not VALIDATOR.is_valid("json_schema", SCHEMA, '{"n":3}', complete=False)


@pytest.mark.parametrize(("answer", "valid"), [("[1]", True), ("[1", False), ("NaN", False), ("1 2", False)])
def test_json_requires_exactly_one_json_value(answer, valid):
    assert VALIDATOR.is_valid("json", "", answer, complete=True) is valid


@pytest.mark.parametrize(("answer", "valid"), [("yes", True), ("no", True), ("maybe", False)])
def test_a_choice_requires_one_of_its_texts(answer, valid):
    assert VALIDATOR.is_valid("choice", '["yes","no"]', answer, complete=True) is valid


def test_the_number_of_cached_validators_is_bounded():
    validator = AnswerValidator()
    for number in range(MAX_VALIDATORS + 10):
        validator.is_valid("json_schema", f'{{"const":{number}}}', "0", complete=True)
    assert len(validator._validators) == MAX_VALIDATORS


def test_the_schemas_own_draft_applies():
    draft4 = '{"$schema":"http://json-schema.org/draft-04/schema#","maximum":3,"exclusiveMaximum":true}'
    assert not VALIDATOR.is_valid("json_schema", draft4, "3", complete=True)
    assert VALIDATOR.is_valid("json_schema", draft4, "2", complete=True)
