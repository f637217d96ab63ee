"""Strict JSON: every text has one meaning or is rejected."""

from __future__ import annotations

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.json_reader import canonical_json, nesting_depth, read_json
from llm_policy.release.guide_limits import GuideLimits

LIMITS = GuideLimits()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{} x",
        '{"a":1,"a":2}',
        "NaN",
        "[Infinity]",
        '"\\ud800"',
        "\ufeff{}",
        "1e999",
        "9" * 500,
        b"\xff",
        "{'a':1}",
        "[1,]",
        '"\x01"',
        "01",
        b"\xef\xbb\xbf{}",
        '{"\\udc00":1}',
        "\ud800",
    ],
)
def test_an_ambiguous_or_invalid_text_is_rejected(text: str | bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: "):
        read_json(text, LIMITS)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_rejected_before_the_text_is_parsed(opening: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: nesting depth"):
        read_json(opening * 30_000, LIMITS)


def test_brackets_inside_strings_do_not_count() -> None:
    assert nesting_depth(b'{"[[[":"\\"[[","a":[1]}') == 2


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('{"b":1,"a":[true,null]}', '{"a":[true,null],"b":1}'),
        (
            "[1.0,1e21,1e-7,0.000001,333333333.33333329,-0.0,4.50,1e30,123456789012345680000]",
            "[1,1e+21,1e-7,0.000001,333333333.3333333,0,4.5,1e+30,123456789012345680000]",
        ),
        (
            '{"\u20ac":1,"\\r":2,"\ud83d\ude00":3,"\ufb33":4}'.encode("utf-16", "surrogatepass").decode("utf-16"),
            '{"\\r":2,"€":1,"😀":3,"\ufb33":4}',
        ),
        ("9007199254740993", "9007199254740993"),
    ],
)
def test_the_canonical_text_follows_rfc_8785(text: str, canonical: str) -> None:
    assert canonical_json(read_json(text, LIMITS)) == canonical
