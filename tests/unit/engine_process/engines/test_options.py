"""Options of an engine: typed by its own arguments, refused with what is allowed."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, Union

import pytest

from engine_process.engine import EngineLoadError
from engine_process.engines.options import parse_options, parse_value

Color = Enum("Color", ["RED", "BLUE"])


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "2", 2),
        (float, "0.9", 0.9),
        (str, "bfloat16", "bfloat16"),
        (bool, "true", True),
        (bool, "false", False),
        (Literal["auto", "fp8"], "fp8", "fp8"),
        (Literal[1, 8], "8", 8),
        (int | None, "7", 7),
        (Union[Any, str, None], "gptq", "gptq"),  # noqa: UP007 - as the engine writes it
        (list[int] | None, "1, 2,4", [1, 2, 4]),
        (Color, "BLUE", Color.BLUE),
        (Color | None, "RED", Color.RED),
    ],
)
def test_a_value_gets_the_type_of_its_argument(annotation, text, value):
    parsed = parse_value("option", text, annotation)

    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "allowed"),
    [
        (int, "two", "a whole number"),
        (int, "", "a whole number"),
        (bool, "1", "true, false"),
        (bool, "True", "true, false"),
        (Literal["auto", "fp8"], "int4", "auto, fp8"),
        (list[int], "1,x", "a whole number, separated by commas"),
        (Color | None, "GREEN", "RED, BLUE"),
        (dict[str, Any] | None, "{}", "nothing"),
        (str, "", "a text"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_is_allowed(annotation, text, allowed):
    with pytest.raises(EngineLoadError) as refused:
        parse_value("option", text, annotation)

    assert str(refused.value) == f"the engine option option is {text!r}, allowed: {allowed}"


def parse(**options):
    annotations = {"size": int, "backend": str, "model": str, "secret": str}
    return parse_options(
        options,
        annotations,
        allowed=("size", "backend", "gone"),
        fixed={"model": "the release has it"},
        choices={"backend": ("mp", "ray")},
    )


def test_an_option_that_is_unknown_names_the_allowed_ones():
    with pytest.raises(EngineLoadError, match=r"option sise is unknown, allowed: backend, size$"):
        parse(sise="1")


def test_an_argument_that_nobody_allowed_is_refused():
    with pytest.raises(EngineLoadError, match=r"option secret is not allowed, allowed: backend, size$"):
        parse(secret="x")


def test_an_option_that_the_adapter_sets_says_where_it_comes_from():
    with pytest.raises(EngineLoadError, match=r"option model can't be set: the release has it$"):
        parse(model="/elsewhere")


def test_an_option_with_choices_takes_nothing_else():
    assert parse(backend="ray", size="2") == {"backend": "ray", "size": 2}
    with pytest.raises(EngineLoadError, match=r"option backend is 'my.Executor', allowed: mp, ray$"):
        parse(backend="my.Executor")
