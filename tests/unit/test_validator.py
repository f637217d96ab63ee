"""The promise behind `schema_valid`."""

import pytest

from llm_policy.guidance.answer_validator import MAX_VALIDATORS, AnswerValidator

SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","maximum":3}},"required":["n"]}'
VALIDATOR = AnswerValidator()


@pytest.mark.parametrize(("answer", "valid"), [('{"n":3}', True), ('{"n":4}', False), ("{}", False), ('{"n":', False)])
def test_an_answer_is_held_against_its_schema(answer, valid):
    assert VALIDATOR.is_valid("json_schema", SCHEMA, answer, complete=True) is valid


def test_an_answer_that_was_cut_off_is_never_valid():
    assert not VALIDATOR.is_valid("json_schema", SCHEMA, '{"n":3}', complete=False)


@pytest.mark.parametrize(("answer", "valid"), [("[1]", True), ("[1", False), ("NaN", False), ("1 2", False)])
def test_json_means_one_json_value(answer, valid):
    assert VALIDATOR.is_valid("json", "", answer, complete=True) is valid


@pytest.mark.parametrize(("answer", "valid"), [("yes", True), ("no", True), ("maybe", False)])
def test_a_choice_is_one_of_its_alternatives(answer, valid):
    assert VALIDATOR.is_valid("choice", '["yes","no"]', answer, complete=True) is valid


def test_only_so_many_compiled_schemas_are_kept():
    validator = AnswerValidator()
    for number in range(MAX_VALIDATORS + 10):
        validator.is_valid("json_schema", f'{{"const":{number}}}', "0", complete=True)
    assert len(validator._validators) == MAX_VALIDATORS


def test_the_answer_is_held_against_the_drafts_own_rules():
    draft4 = '{"$schema":"http://json-schema.org/draft-04/schema#","maximum":3,"exclusiveMaximum":true}'
    assert not VALIDATOR.is_valid("json_schema", draft4, "3", complete=True)
    assert VALIDATOR.is_valid("json_schema", draft4, "2", complete=True)
