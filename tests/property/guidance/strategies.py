"""Schemas and instances over the same few names and values, with unusual ones among them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = ["a", "b", "ab", "c", "x-1"]
TEXTS = ["", "a", "ab", "abc", "a1", "é", "b\n", 'q"', "\\", "2024-02-29", "x" * 20]
NUMBERS = [0, 1, -1, 2, 5, 10, 99, 100, 0.5, -2.5, 1e-7, 3.25]
PATTERNS = ["^a", "b$", "^[a-z]+$", "a|b", "^a{1,3}$", ".", "^(ab?)+$", "[^a]", r"\d", "^$"]

scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)),
    max_leaves=5,
)


def _with(base: dict[str, Any], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.just(value) for name, value in base.items()}, optional=optional)


small = st.integers(0, 4)
bounds = st.sampled_from([-10, -1, 0, 0.25, 1, 5, 42])
strings = _with(
    {"type": "string"},
    minLength=small,
    maxLength=small,
    pattern=st.sampled_from(PATTERNS),
    format=st.sampled_from(["date", "ipv4", "color"]),
)
numbers = st.builds(
    lambda kind, rest: {"type": kind, **rest},
    st.sampled_from(["integer", "number"]),
    _with(
        {},
        minimum=bounds,
        maximum=bounds,
        exclusiveMinimum=bounds,
        exclusiveMaximum=bounds,
        multipleOf=st.sampled_from([1, 2, 3, 0.5]),
    ),
)
enums = st.builds(lambda items: {"enum": items}, st.lists(values, min_size=1, max_size=4))
leaves = st.one_of(
    strings,
    numbers,
    enums,
    st.just({}),
    st.just(True),
    st.just({"type": ["string", "null"]}),
    st.just({"type": "boolean"}),
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.lists(st.sampled_from(NAMES), max_size=2, unique=True)
    return _with(
        {"type": "object"},
        properties=st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
        required=names,
        additionalProperties=st.one_of(st.booleans(), inner),
        patternProperties=st.dictionaries(st.sampled_from(["^x", "b"]), inner, max_size=1),
        minProperties=st.integers(0, 2),
        maxProperties=st.integers(1, 4),
        dependentRequired=st.dictionaries(st.sampled_from(NAMES), names, max_size=1),
        propertyNames=st.one_of(strings, st.just({"enum": ["a", "b"]})),
    )


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return _with(
        {"type": "array"},
        items=inner,
        prefixItems=st.lists(inner, min_size=1, max_size=2),
        minItems=small,
        maxItems=small,
        contains=inner,
        uniqueItems=st.booleans(),
    )


def _combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda s: {"allOf": s}, several),
        st.builds(lambda s: {"anyOf": s}, several),
        st.builds(lambda s: {"oneOf": s}, several),
        st.builds(lambda s: {"not": s}, inner),
        st.builds(lambda i, t, e: {"if": i, "then": t, "else": e}, inner, inner, inner),
        st.builds(
            lambda s, more: {**s, **more} if isinstance(s, dict) else s,
            inner,
            _with({}, anyOf=several, oneOf=several, enum=st.lists(values, min_size=1, max_size=3)),
        ),
    )


schemas = st.recursive(leaves, lambda inner: st.one_of(_objects(inner), _arrays(inner), _combined(inner)), max_leaves=6)


_ebnf_atoms = st.sampled_from(['"a"', '"ab"', r'"\n"', '"é"', '""', "[a-z]", "[^a]", r"[\x30-9_]", "other", "third"])
_ebnf_marks = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"])
_ebnf_expressions = st.recursive(
    st.builds(str.__add__, _ebnf_atoms, _ebnf_marks),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.builds("({}){}".format, st.lists(inner, min_size=1, max_size=3).map(" | ".join), _ebnf_marks),
    ),
    max_leaves=6,
)
grammars = st.builds(
    "root ::= {}\nother ::= {} # a comment\nthird ::= {}".format,
    _ebnf_expressions,
    _ebnf_expressions,
    st.sampled_from(['"c"', "[0-9]+"]) | _ebnf_expressions,
)
damaged_grammars = st.builds(
    lambda text, place, length, inserted: text[:place] + inserted + text[place + length :],
    grammars,
    st.integers(0, 80),
    st.integers(0, 3),
    st.text('ab "[]^-|()*+?{},02#\\xu:=\n', max_size=3),
)

regexes = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "a-", "[^b]", "."]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda options: f"({'|'.join(options)})"),
        st.builds("({}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,6}", "{5,}"])),
    ),
    max_leaves=5,
)
