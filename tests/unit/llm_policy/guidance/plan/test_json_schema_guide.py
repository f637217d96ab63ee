"""JSON Schema guides: the instances that their grammars accept, and the schemas that are rejected."""

from __future__ import annotations

import cProfile
import json
from contextlib import suppress
from typing import Any

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.grammar.ebnf_writer import write_ebnf
from llm_policy.guidance.plan.guide_plan import GuidePlan
from llm_policy.guidance.plan.json_schema_guide import plan_json, plan_json_schema
from llm_policy.release.guide_limits import GuideLimits
from tests.grammar_check import accepts, compile_plan

LIMITS = GuideLimits()


def plan(schema: Any, limits: GuideLimits = LIMITS) -> GuidePlan:
    return plan_json_schema(json.dumps(schema), limits)


def accepted(schema: Any, *instances: Any) -> list[bool]:
    compiled = compile_plan(plan(schema))
    texts = [json.dumps(i, ensure_ascii=False, separators=(",", ":")) for i in instances]
    return [accepts(compiled, text) for text in texts]


A = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}

CASES: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("type", {"type": ["integer", "null"]}, [1, None], ["1", 1.5, True]),
    ("members in order", A, [{}, {"a": 1}, {"b": ""}, {"a": 1, "b": "x"}], [{"c": 1}, {"a": "x"}, [1]]),
    ("required", {**A, "required": ["b"]}, [{"b": "x"}, {"a": 1, "b": "x"}], [{}, {"a": 1}]),
    ("required and undeclared", {**A, "required": ["z"]}, [{"z": 1}, {"a": 1, "z": None}], [{"a": 1}]),
    ("open object", {**A, "additionalProperties": True}, [{"a": 1, "zz": [1]}, {"ab": 1}], [{"a": "x"}]),
    ("typed rest", {**A, "additionalProperties": {"type": "null"}}, [{"z": None}], [{"z": 1}, {"a": None}]),
    ("map", {"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"é": 1}], [{"k": "v"}]),
    ("minProperties", {**A, "minProperties": 1}, [{"a": 1}], [{}]),
    ("maxProperties", {**A, "maxProperties": 1}, [{}, {"b": "x"}], [{"a": 1, "b": "x"}]),
    (
        "patternProperties",
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        [{}, {"x-1": 1}],
        [{"y": 1}, {"x-1": "1"}],
    ),
    ("propertyNames", {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, [{"ab": 1}], [{"A": 1}]),
    ("dependentRequired", {**A, "dependentRequired": {"a": ["b"]}}, [{"b": ""}, {"a": 1, "b": ""}], [{"a": 1}]),
    (
        "items",
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [[1], [1, 2]],
        [[], [1, 2, 3], ["x"]],
    ),
    (
        "prefixItems",
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
        [[], [1]],
        [["x"], [1, 2]],
    ),
    (
        "contains",
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 3}},
        [[3], [1, 3, 2]],
        [[], [1]],
    ),
    ("lengths", {"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "é😀x", '\n"'], ["a", "abcd"]),
    ("long length", {"type": "string", "maxLength": 10}, ["", "a" * 10], ["a" * 11]),
    ("pattern is a search", {"type": "string", "pattern": "b+"}, ["b", "abbc", '"b'], ["", "ac"]),
    ("anchored pattern", {"type": "string", "pattern": "^a$|^b"}, ["a", "bc"], ["ab", "cb"]),
    ("pattern and length", {"type": "string", "pattern": "^a", "maxLength": 2}, ["a", "ab"], ["abc", "b"]),
    ("two patterns", {"allOf": [{"type": "string", "pattern": "^a"}, {"pattern": "z$"}]}, ["az", "abz"], ["a", "z"]),
    ("format", {"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-2-1"]),
    ("unknown format", {"type": "string", "format": "colour"}, ["anything"], [1]),
    ("integer range", {"type": "integer", "minimum": -5, "maximum": 120}, [-5, 0, 9, 120], [-6, 121, 1000]),
    ("number range", {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}, [1e-05, 0.1, 1.5], [0, 1.51, -1, 2]),
    ("multipleOf", {"type": "integer", "multipleOf": 7}, [0, 7, -14, 700], [1, 13]),
    ("multipleOf in a range", {"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 11}, [5, 10], [0, 15]),
    ("enum beside type", {"type": "string", "enum": ["a", 1, "b"], "maxLength": 1}, ["a", "b"], [1, "c"]),
    ("const", {"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}]),
    ("allOf", {"allOf": [A, {"required": ["a"]}]}, [{"a": 1}], [{}, {"b": "x"}]),
    (
        "anyOf with siblings",
        {"anyOf": [{"minimum": 5}, {"type": "string"}], "type": ["integer", "string"]},
        [5, "x"],
        [4, None],
    ),
    (
        "oneOf",
        {"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": 1}],
        [{}, {"a": 1, "b": 1}],
    ),
    ("not required", {**A, "not": {"required": ["b"]}}, [{"a": 1}], [{"b": "x"}]),
    ("not enum", {"type": "string", "not": {"enum": ["no", "never"]}}, ["yes", "n", "nope"], ["no", "never"]),
    ("not type", {"not": {"type": ["object", "array", "string"]}}, [1, None, True], ["x", {}, []]),
    (
        "if then else",
        {**A, "if": {"properties": {"a": {"const": 1}}, "required": ["a"]}, "then": {"required": ["b"]}},
        [{"a": 1, "b": "x"}, {"a": 2}, {}],
        [{"a": 1}],
    ),
    ("reference", {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, [1], ["x"]),
    ("siblings of a reference", {"$ref": "#/$defs/n", "minimum": 3, "$defs": {"n": {"type": "integer"}}}, [3], [2]),
    ("anchor", {"$ref": "#n", "$defs": {"n": {"$anchor": "n", "type": "integer"}}}, [1], ["x"]),
    (
        "recursion",
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
        [{}, {"next": {"next": {}}}],
        [{"next": 1}],
    ),
    (
        "draft 4",
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "integer",
            "minimum": 1,
            "exclusiveMinimum": True,
        },
        [2],
        [1],
    ),
    ("draft 4 spelling without its name", {"type": "integer", "minimum": 1, "exclusiveMinimum": True}, [2], [1]),
    (
        "siblings of a reference in draft 7",
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$ref": "#/definitions/n",
            "minimum": 3,
            "definitions": {"n": {"type": "integer"}},
        },
        [2],
        ["x"],
    ),
    ("unevaluatedProperties", {**A, "unevaluatedProperties": False}, [{"a": 1}], [{"c": 1}]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_grammar_enforces_the_keyword_exactly(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert accepted(schema, *good) == [True] * len(good)
    assert accepted(schema, *bad) == [False] * len(bad)
    assert plan(schema).unenforced == ()


IMPOSSIBLE = [
    False,
    {"enum": []},
    {"type": "string", "enum": [1]},
    {"type": "integer", "minimum": 3, "maximum": 2},
    {"type": "string", "minLength": 3, "maxLength": 2},
    {"allOf": [{"type": "string"}, {"type": "null"}]},
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": False}, "required": ["a"]},
    {"not": {}},
    {"type": "string", "pattern": "^[]$"},
    {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
]


@pytest.mark.parametrize("schema", IMPOSSIBLE)
def test_an_unsatisfiable_schema_is_rejected(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: "):
        plan(schema)


WRONG = [
    {"$ref": "http://example.com/s"},
    {"$ref": "#/$defs/none"},
    {"$ref": "other.json"},
    {"type": "text"},
    {"required": "a"},
    {"properties": []},
    {"minLength": -1},
    {"pattern": "("},
    {"anyOf": []},
    [],
    1,
    {"items": 3},
    {"$ref": "http://["},
]


@pytest.mark.parametrize("schema", WRONG)
def test_the_error_of_an_invalid_schema_does_not_quote_it(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: ") as caught:
        plan(schema)
    assert "example" not in str(caught.value)
    assert "text" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "limits"),
    [
        ({"enum": list(range(9))}, GuideLimits(max_enum_entries=8)),
        ({"type": "object", "properties": {str(i): {} for i in range(9)}}, GuideLimits(max_properties=8)),
        ({"allOf": [{} for _ in range(9)]}, GuideLimits(max_subschemas=8)),
        ({"type": "string", "description": "x" * 100}, GuideLimits(max_bytes=100)),
        ({"const": "x" * 100}, GuideLimits(max_enum_bytes=100)),
        ({"type": "array", "items": {"const": "x"}, "minItems": 99}, GuideLimits(max_shortest_text=99)),
    ],
)
def test_a_schema_over_a_limit_is_rejected_with_the_value_and_the_limit(schema: Any, limits: GuideLimits) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: .* is \d+, limit \d+$"):
        plan(schema, limits)


def test_nesting_is_measured_before_the_schema_is_parsed() -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: nesting depth is 100000, limit 96$"):
        plan_json_schema("[" * 100_000, LIMITS)


def test_a_long_chain_of_definitions_is_planned_without_recursion() -> None:
    chain: dict[str, Any] = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(1_500)}
    assert len(plan({"$defs": {**chain, "d1500": {"type": "null"}}, "$ref": "#/$defs/d0"}).grammar.rules) > 1_500


def test_a_grammar_over_the_size_limit_is_rejected() -> None:
    limits = GuideLimits(max_grammar_bytes=100)
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: grammar size in bytes is \d+, limit 100$"):
        write_ebnf(plan({"const": "x" * 100}, limits).grammar, limits, copy_classes=True)


def test_a_long_chain_of_bare_references_is_resolved() -> None:
    chain: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(1_500)}
    assert accepted({"$defs": {**chain, "d1500": {"type": "null"}}, "$ref": "#/$defs/d0"}, None, 1) == [True, False]


def test_the_grammar_size_is_linear_in_the_number_of_optional_members() -> None:
    def size(count: int) -> int:
        schema = {"type": "object", "properties": {f"p{i:03}": {"type": "null"} for i in range(count)}}
        return len(write_ebnf(plan(schema).grammar, LIMITS, copy_classes=True))

    assert size(400) < 2.2 * size(200)


def test_an_unenforced_keyword_is_reported_with_its_pointer() -> None:
    found = plan({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}).unenforced
    assert [(item.pointer, item.keyword) for item in found] == [("/properties/a", "uniqueItems")]


def test_a_missing_type_is_inferred_from_the_constraints() -> None:
    planned = plan({"properties": {"a": {"type": "null"}}})
    assert [item.keyword for item in planned.narrowed] == ["type"]
    assert accepted({"properties": {"a": {"type": "null"}}}, {"a": None}, "x") == [True, False]


def test_an_escaped_spelling_of_a_declared_name_is_rejected() -> None:
    compiled = compile_plan(plan({**A, "additionalProperties": True}))
    assert not accepts(compiled, '{"\\u0061":"no integer"}')


def test_equal_schemas_have_the_same_canonical_text() -> None:
    first = plan_json_schema('{"type":"object", "properties":{}}', LIMITS)
    assert first.canonical == plan_json_schema('{"properties":{},"type":"object"}', LIMITS).canonical


def test_any_json_has_no_whitespace_and_no_lone_surrogates() -> None:
    compiled = compile_plan(plan_json(LIMITS))
    assert accepts(compiled, '{"a":[1,-2.5e3,"\\ud83d\\ude00"],"b":null}')
    assert not accepts(compiled, '"\\ud83d"')
    assert not accepts(compiled, "[1, 2]")


HOSTILE: list[Any] = [
    {
        "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}},
        "$ref": "#/$defs/d0",
    },
    {
        "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}},
        "$ref": "#/$defs/d0",
    },
    {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {}}} for j in range(10)]} for i in range(30)]},
    {
        "type": "object",
        "properties": {f"p{i}": {} for i in range(800)},
        "allOf": [{"anyOf": [{"required": [f"p{i}"]}, {"required": [f"p{i + 8}"]}]} for i in range(8)],
    },
    {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in (8, 9, 10)]},
    {"type": "string", "pattern": "a?" * 500 + "a" * 500, "minLength": 3},
    {
        "type": "object",
        "properties": {f"p{i}": {} for i in range(40)},
        "dependentRequired": {f"p{i}": [f"p{i + 20}"] for i in range(20)},
    },
]


# The most expensive of these schemas takes 8 million calls of Python functions, which is a few seconds.
MAX_CALLS = 20_000_000


@pytest.mark.parametrize(
    "schema",
    [pytest.param(schema, marks=pytest.mark.slow if number in (3, 6) else ()) for number, schema in enumerate(HOSTILE)],
)
def test_a_schema_with_exponentially_many_combinations_is_planned_or_rejected_with_bounded_work(schema: Any) -> None:
    profile = cProfile.Profile(subcalls=False, builtins=False)
    with suppress(InvalidRequest):
        profile.runcall(plan, schema)
    assert sum(function.callcount for function in profile.getstats()) < MAX_CALLS
