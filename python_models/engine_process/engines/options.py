"""An operator's options for an engine, `key=value`, typed by the annotations of the engine's own arguments."""

from __future__ import annotations

import contextlib
import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from engine_process.engine import EngineLoadError

_BOOLEANS = {"true": True, "false": False}


def parse_options(
    options: Mapping[str, str],
    annotations: Mapping[str, Any],
    *,
    allowed: Iterable[str],
    fixed: Mapping[str, str],
    choices: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """The options' values.

    `annotations` are the types of the engine's arguments, `allowed` those that an operator may set. `fixed` says of the
    other ones where they come from. `choices` narrows arguments whose type is wider than what is allowed.

    Raises:
        EngineLoadError: an unknown key, a key that can't be set, or a value of another type; names what is allowed.
    """
    known = [name for name in allowed if name in annotations]
    return {
        name: _parse_option(name, text, annotations, known, fixed, choices.get(name)) for name, text in options.items()
    }


def _parse_option(
    name: str,
    text: str,
    annotations: Mapping[str, Any],
    known: list[str],
    fixed: Mapping[str, str],
    choices: tuple[str, ...] | None,
) -> Any:
    if name in fixed:
        raise EngineLoadError(f"the engine option {name} can't be set: {fixed[name]}")
    if name not in known:
        what = "is not allowed" if name in annotations else "is unknown"
        raise EngineLoadError(f"the engine option {name} {what}, allowed: {', '.join(sorted(known))}")
    return parse_value(name, text, Literal[choices] if choices else annotations[name])


def parse_value(name: str, text: str, annotation: Any) -> Any:
    """The value of an option with this type.

    Raises:
        EngineLoadError: it has another type.
    """
    alternatives = _alternatives(annotation)
    for parse, _ in alternatives:
        with contextlib.suppress(ValueError):
            return parse(text)
    expected = " or ".join(dict.fromkeys(description for _, description in alternatives))
    raise EngineLoadError(f"the engine option {name} is {text!r}, allowed: {expected or 'nothing'}")


def _alternatives(annotation: Any) -> list[tuple[Callable[[str], Any], str]]:
    """(parser, description) of each type that the annotation allows and that can be written on a command line."""
    if annotation in _SCALARS:
        return [_SCALARS[annotation]]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [(lambda text: _member(annotation, text), ", ".join(annotation.__members__))]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin is Literal:
        names = {str(value): value for value in arguments}
        return [(lambda text: _look_up(names, text), ", ".join(names))]
    if origin in (typing.Union, types.UnionType):
        return [alternative for argument in arguments for alternative in _alternatives(argument)]
    if origin is list and arguments and (item := _alternatives(arguments[0])):
        parse = item[0][0]
        return [(lambda text: [parse(part.strip()) for part in text.split(",")], f"{item[0][1]}, separated by commas")]
    return []


def _look_up(names: Mapping[str, Any], text: str) -> Any:
    if text not in names:
        raise ValueError(text)
    return names[text]


def _member(members: type[enum.Enum], text: str) -> Any:
    return _look_up(members.__members__, text)


def _text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


_SCALARS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (lambda text: _look_up(_BOOLEANS, text), "true, false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (_text, "a text"),
}
