"""Hostile guides: those that crash, hang or exhaust a grammar compiler, and those that slow down decoding.

`python -m tests.hostile_guides` prints the latter as lines of JSON for `llmstack bench beside`.
"""

import json
from collections.abc import Iterator


def schema(tree) -> tuple[str, str]:
    return "json_schema", tree if isinstance(tree, str) else json.dumps(tree)


def chain(length: int) -> dict:
    """$defs of objects, each referring to the next."""
    defs = {
        f"d{n}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/d{n + 1}"}}, "required": ["x"]}
        for n in range(length)
    }
    return {"$defs": {**defs, f"d{length}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def bare_chain(length: int) -> dict:
    defs = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
    return {"$defs": {**defs, f"d{length}": {}}, "$ref": "#/$defs/d0"}


def nested(opening: str, inner: str, closing: str, depth: int) -> str:
    return opening * depth + inner + closing * depth


def deep() -> Iterator[tuple[str, str]]:
    for depth in (50, 90, 200, 1_000, 10_000):
        yield schema(nested('{"type":"array","items":', "{}", "}", depth))
        yield schema(nested('{"properties":{"a":', "{}", "}}", depth))
        yield schema(nested('{"not":', "{}", "}", depth))
        yield schema(nested('{"anyOf":[', "{}", "]}", depth))
        yield schema(nested('{"allOf":[', "{}", "]}", depth))
    yield schema("[" * 100_000)
    yield schema('{"a":' * 50_000)


def references() -> Iterator[tuple[str, str]]:
    for length in (10, 100, 500, 1_500, 4_000):
        yield schema(chain(length))
        yield schema(bare_chain(length))
    yield schema({"$ref": "#"})
    yield schema({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})
    yield schema({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})
    yield schema({"allOf": [{"$ref": "#"}]})
    required = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}
    yield schema(required)
    yield schema({"$ref": "#/$defs/nowhere"})
    yield schema({"$ref": "#/properties/a~1b/%ff"})
    for target in ("http://127.0.0.1:9/x", "file:///etc/passwd", "https://json-schema.org/draft/2020-12/schema"):
        yield schema({"$ref": target})
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    yield schema({"$defs": {**doubling, "d40": {"type": "integer"}}, "$ref": "#/$defs/d0"})
    branching = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    yield schema({"$defs": {**branching, "d30": {"type": "integer"}}, "$ref": "#/$defs/d0"})
    yield schema({"$dynamicRef": "#x", "$dynamicAnchor": "x"})


def wide() -> Iterator[tuple[str, str]]:
    for count in (200, 400, 999, 3_000):
        yield schema({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}})
        yield schema({"enum": [f"value {n}" for n in range(count)]})
        yield schema({"anyOf": [{"type": "object", "properties": {f"a{n}": {}}} for n in range(count)]})
        yield schema({"oneOf": [{"const": n} for n in range(count)]})
        yield schema({"required": [f"r{n}" for n in range(count)]})
    yield schema({"enum": list(range(30_000))})
    yield schema({"const": "x" * 200_000})
    yield schema({"type": "object", "properties": {"n" * 100_000: {}}})
    yield schema({"patternProperties": {f"^p{n}.*{n}$": {"type": "integer"} for n in range(300)}})
    alternatives = {"anyOf": [{"minimum": n} for n in range(20)]}
    yield schema({"allOf": [alternatives] * 12})


def counted() -> Iterator[tuple[str, str]]:
    for length in (16, 32, 200, 5_000, 10**6, 10**18):
        yield schema({"type": "string", "minLength": length})
        yield schema({"type": "string", "maxLength": length})
        yield schema({"type": "array", "items": {"type": "string"}, "minItems": length})
        yield schema({"type": "object", "minProperties": length})
    yield schema({"type": "object", "properties": {f"s{n}": {"type": "string", "maxLength": 500} for n in range(40)}})
    yield schema({"type": "integer", "minimum": -(10**300), "maximum": 10**300})
    yield schema({"type": "number", "multipleOf": 1e-300})
    yield schema({"type": "integer", "multipleOf": 999_999_937})
    yield schema('{"minimum":1' + "0" * 50_000 + "}")
    yield schema('{"minimum":1e999999}')


def unsatisfiable() -> Iterator[tuple[str, str]]:
    yield schema("false")
    yield schema({"enum": []})
    yield schema({"type": "integer", "minimum": 5, "maximum": 3})
    yield schema({"type": "string", "minLength": 5, "maxLength": 3})
    yield schema({"allOf": [{"type": "string"}, {"type": "integer"}]})
    yield schema({"type": "object", "required": ["a"], "properties": {"a": False}})
    yield schema({"type": "string", "pattern": "[^\\s\\S]"})
    yield schema({"not": {}})


def unreadable() -> Iterator[tuple[str, str]]:
    texts = (
        "",
        " ",
        "{",
        "nul",
        "{}{}",
        '{"a":NaN}',
        '{"a":1,"a":2}',
        '{"a":"\\ud800"}',
        "\ufeff{}",
        "{'a':1}",
        "[]",
        "3",
    )
    for text in texts:
        yield schema(text or " ")
    yield schema({"type": "strin"})
    yield schema({"properties": []})
    yield schema({"pattern": "("})
    yield schema({"$schema": "http://example.com/none"})
    yield schema({"type": "object\0"})


def patterns() -> Iterator[tuple[str, str]]:
    texts = [
        "a?" * 1_000 + "a" * 1_000,
        "(" * 40_000 + "a" + ")" * 40_000,
        "(" * 20 + "a" + ")*" * 20,
        "(a*)*b",
        "(a|aa)+$",
        "((a{1,100}){1,100}){1,100}",
        "a{100000}",
        "a{1,99999999999}",
        "[^\\s\\S]",
        "(?=a)b",
        "(?<!a)b",
        "(a)\\1",
        "[z-a]",
        "[",
        "(",
        "*a",
        "\\",
        "\\p{L}{50}",
        "(?i)abc",
        "(?P<n>a)(?P=n)",
        "|".join(f"word{n}" for n in range(2_000)),
        ".{0,2000}x.{0,2000}",
        "[\\u0000-\\uffff]{500}",
        "x" * 70_000,
        "^" * 3_000,
        "\\d{3}(-\\d{3}){500}",
    ]
    for text in texts:
        yield "regex", text
    for text in texts[:14]:
        yield schema({"type": "string", "pattern": text})


def grammars() -> Iterator[tuple[str, str]]:
    texts = [
        "root ::= root",
        "root ::= root root",
        'root ::= root "a"',
        'root ::= a\na ::= b\nb ::= a | "x" b',
        "root ::= nowhere",
        'start ::= "a"',
        "root ::= (",
        'root ::= "a',
        "root ::= [",
        'root ::= "a"{1,100000000}',
        "root ::= " + "(" * 5_000 + '"a"' + ")" * 5_000,
        "root ::= " + " | ".join(f'"w{n}"' for n in range(20_000)),
        "\n".join(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(60)) + '\nr60 ::= "a"\nroot ::= r0',
        "\n".join(f"r{n} ::= r{n + 1}?" for n in range(3_000)) + '\nr3000 ::= "a"\nroot ::= r0',
        'root ::= "" root',
        'root ::= ""*',
        'root ::= ("a"*)*',
        'root ::= ("a"?){5000}',
        "root ::= [^\\x00-\\U0010ffff]",
        "root ::= " + '"a" ' * 30_000,
        "root \0::= x",
        'root ::= "\\ud800"',
        'root ::= "a" # ' + "x" * 60_000,
    ]
    for text in texts:
        yield "ebnf_grammar", text


def choices() -> Iterator[tuple[str, str]]:
    texts = ("[]", "[1]", '[""]', '["a","a"]', "{}", "[", '"a"', "null", '["a",null]', '["\\ud800"]')
    for text in texts:
        yield "choice", text
    yield "choice", json.dumps([f"choice {n}" for n in range(5_000)])
    yield "choice", json.dumps(["x" * 200_000])
    yield "choice", json.dumps(["\0", "\n", '"', "\\"])
    yield "choice", nested("[", "", "]", 10_000)


def hostile_guides() -> list[tuple[str, str]]:
    """(type, text) of all hostile guides."""
    makers = (deep, references, wide, counted, unsatisfiable, unreadable, patterns, grammars, choices)
    return [guide for maker in makers for guide in maker()]


def text_of(**bounds: int) -> dict:
    """A string with bounds on its length."""
    return {"type": "string", **bounds}


def record(**properties: dict) -> dict:
    """An object with all of the properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def counted_strings() -> Iterator[tuple[str, str]]:
    """A mask inside a counted string can't be precomputed: nearly every token may end beyond the count."""
    for length in (11, 12, 16, 24, 48, 64, 100, 250, 512, 2_000):
        yield schema(record(a=text_of(maxLength=length)))
    for length in (8, 20, 60, 150, 400):
        yield schema(record(a=text_of(minLength=length)))
    yield schema(record(a=text_of(minLength=2, maxLength=100)))
    yield schema(record(a=text_of(minLength=90, maxLength=110)))
    yield schema(record(a=text_of(maxLength=200), b=text_of(maxLength=300)))
    yield schema(record(**{f"s{n}": text_of(maxLength=200) for n in range(5)}))
    yield schema(record(**{f"s{n}": text_of(maxLength=10 + n) for n in range(20)}))
    yield schema(record(a={"type": "string", "pattern": "^[a-z]{1,100}$"}))
    yield schema(record(a={"type": "string", "pattern": "^.{1,200}$"}))
    yield schema(record(a={"type": "string", "pattern": "^(\\w+ ?){1,40}$", "maxLength": 120}))
    yield schema(record(a={"type": "string", "pattern": "^[A-Z][a-z]*", "minLength": 5, "maxLength": 80}))


def nested_counts() -> Iterator[tuple[str, str]]:
    for size in (5, 50, 500):
        yield schema({"type": "array", "items": text_of(maxLength=16), "maxItems": size})
    yield schema({"type": "array", "items": text_of(minLength=3, maxLength=40), "minItems": 20, "maxItems": 60})
    rows = {"type": "array", "items": {"type": "array", "items": text_of(maxLength=30), "maxItems": 12}, "maxItems": 12}
    yield schema(rows)
    yield schema({"type": "array", "items": record(a=text_of(maxLength=64), b=text_of(maxLength=80)), "maxItems": 30})
    yield schema({"type": "object", "additionalProperties": text_of(maxLength=50), "maxProperties": 40})
    yield schema(
        {"type": "object", "propertyNames": text_of(maxLength=25), "additionalProperties": {"type": "integer"}}
    )
    deep_record = text_of(maxLength=90)
    for _ in range(6):
        deep_record = record(a=text_of(maxLength=33), next=deep_record)
    yield schema(deep_record)
    tree = record(name=text_of(maxLength=40), children={"type": "array", "items": {"$ref": "#"}, "maxItems": 4})
    yield schema(tree)


def alternatives() -> Iterator[tuple[str, str]]:
    for count, length in ((4, 100), (20, 15), (60, 40)):
        yield schema({"anyOf": [record(**{f"k{n}": text_of(maxLength=length + n)}) for n in range(count)]})
    yield schema({"anyOf": [record(kind={"const": f"kind {n}"}, text=text_of(maxLength=150)) for n in range(30)]})
    yield schema({"oneOf": [text_of(maxLength=90, minLength=10 * n) for n in range(4)]})
    yield schema({"anyOf": [text_of(maxLength=70), {"type": "array", "items": text_of(maxLength=70)}]})
    for count in (100, 1_000, 1_900):
        yield schema({"enum": [f"{n * 7919 % 100_003} is one of the values" for n in range(count)]})
    yield schema({"type": "array", "items": {"enum": [f"{'ab' * (n % 17)}{n}" for n in range(300)]}, "maxItems": 25})
    yield schema({"enum": ["a" * n for n in range(1, 250)]})


def counted_regexes() -> Iterator[tuple[str, str]]:
    texts = [
        r"[a-z]{1,100}",
        r"[a-z]{3,300}",
        r".{0,250}",
        r"(\w+ ?){1,60}",
        r"(\w+ ?){1,600}",
        r"(\w+\s?)+",
        r"(a*)*b7",
        r"(a|b|ab){1,80}c",
        r"([a-z]+,){1,50}[a-z]+",
        r"((\d{1,3}\.){3}\d{1,3} ?){1,20}",
        r"([A-Z][a-z]{0,12} ){5,25}",
        r"(([a-z]{1,8} ){1,8}\n){1,8}",
        r"[\u0400-\u04ff ]{10,90}",
        r"(.{1,20};){1,20}",
        "|".join(f"[a-z]{{{n},{n + 40}}}{n}" for n in range(1, 12)),
        "|".join(f"answer {n * 31 % 997} of many" for n in range(100)),
    ]
    for text in texts:
        yield "regex", text


def counted_grammars() -> Iterator[tuple[str, str]]:
    texts = [
        "root ::= [a-z ]{0,200}",
        "root ::= [a-z ]{100,150}",
        'root ::= "\\"" [^"\\\\\\x00-\\x1f]{0,300} "\\""',
        "root ::= ([a-z]+ [ ]?){1,60}",
        "root ::= x root | x\nx ::= [a-z]",
        "root ::= x root | x\nx ::= [a-z]{1,9} | [0-9]{1,9}",
        "root ::= root x | x\nx ::= [a-z]",
        "root ::= a{1,30}\na ::= b{1,30}\nb ::= [a-z] [0-9]?",
        'root ::= "(" root ")" | [a-z]{1,40}',
        'root ::= pair ("," pair){0,40}\npair ::= word "=" word\nword ::= [a-z]{1,20}',
        'root ::= x root y | ""\nx ::= [a-z]\ny ::= [0-9]',
        "root ::= " + " | ".join(f'[a-z]{{0,{n}}} "{n}"' for n in range(20, 60)),
        "root ::= " + " | ".join(f'"word {n * 7 % 311}" [a-z]*' for n in range(300)),
    ]
    for text in texts:
        yield "ebnf_grammar", text


def long_choices() -> Iterator[tuple[str, str]]:
    yield "choice", json.dumps([f"{n * 7919 % 100_003} is one of the choices" for n in range(900)])
    yield "choice", json.dumps(["a" * n for n in range(1, 200)])
    yield "choice", json.dumps([f"{'the same beginning ' * 20}{n}" for n in range(100)])


def decode_hostile_guides() -> list[tuple[str, str]]:
    """(type, text) of guides whose token masks are slow if they are compiled as they are."""
    makers = (counted_strings, nested_counts, alternatives, counted_regexes, counted_grammars, long_choices)
    return [guide for maker in makers for guide in maker()]


if __name__ == "__main__":
    for guide in decode_hostile_guides():
        print(json.dumps(guide))
