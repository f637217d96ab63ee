"""`llmstack configuration`: every option, environment variable and key of the manifest."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llmstack.cli.terminal import print_json
from llmstack.paths import DEFAULT_STATE_DIR, PROJECT_ROOT

if TYPE_CHECKING:
    from pydantic import BaseModel

_TITLE = """# Configuration

Generated from the code by `llmstack configuration --markdown > docs/configuration.md`. `llmstack <command> --help`
explains the options of one command. An option on the command line overrides its environment variable.
"""


_CODE = ("option", "variable", "key")  # columns that are set in code type


class Option(NamedTuple):
    """One option or argument of a command."""

    command: str
    name: str
    variable: str
    default: str
    help: str


class ManifestKey(NamedTuple):
    """One key of manifest.json, with the path that leads to it."""

    path: str
    type: str
    default: str


def configuration(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/configuration.md.")] = False,
) -> None:
    """List every option, environment variable and key of the manifest, with defaults.

    Example: llmstack configuration | grep -i port
    """
    from llm_policy.release.manifest import Manifest
    from llmstack.configuration.variables import GROUPS

    command = context.find_root().command
    if as_json:
        print_json(
            {
                "options": [option._asdict() for option in options(command)],
                "variables": {group: [variable._asdict() for variable in rows] for group, rows in GROUPS.items()},
                "manifest": [key._asdict() for key in manifest_keys(Manifest)],
            }
        )
    else:
        typer.echo(markdown(command) if as_markdown else text(command), nl=False)


def options(command: Any) -> Iterator[Option]:
    """The options of `command` (click's, of the whole program) and below, in the order of its `--help`."""
    for name, parsed in _commands(command, "llmstack"):
        for parameter in parsed.params:
            if parameter.name != "help":
                yield _option(name, parameter)


def markdown(command: Any) -> str:
    """The page docs/configuration.md."""
    from llm_policy.release.manifest import Manifest
    from llmstack.configuration.variables import GROUPS

    parts = [_TITLE, "## Options\n"]
    for name, rows in _by_command(options(command)):
        parts.append(f"### {name}\n")
        parts.append(_table(("option", "variable", "default", "meaning"), [row[1:] for row in rows]))
    parts.append("## Environment variables without an option\n")
    for group, variables in GROUPS.items():
        parts.append(f"### {group}\n")
        parts.append(_table(("variable", "default", "meaning"), variables))
    parts.append(
        "## manifest.json\n\nKeys without a default are required. `llmstack manifest build` writes the file.\n"
    )
    parts.append(_table(("key", "type", "default"), manifest_keys(Manifest)))
    return "\n".join(parts)


def text(command: Any) -> str:
    """One line each, for a terminal and grep."""
    from llm_policy.release.manifest import Manifest
    from llmstack.configuration.variables import GROUPS

    lines = [_line(f"{row.command} {row.name}", row.variable, row.default, row.help) for row in options(command)]
    lines += [_line(row.name, "", row.default, row.meaning) for rows in GROUPS.values() for row in rows]
    lines += [_line(f"manifest.json {key.path}", key.type, key.default, "") for key in manifest_keys(Manifest)]
    return "\n".join(lines) + "\n"


def _line(name: str, detail: str, default: str, meaning: str) -> str:
    return " ".join(filter(None, (name, detail and f"[{detail}]", default and f"(default: {default})", meaning)))


def manifest_keys(model: type[BaseModel], prefix: str = "") -> Iterator[ManifestKey]:
    """The keys of `model` and, below each section, of the section's model."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        section = _section(field.annotation)
        if section is not None:
            is_map = typing.get_origin(field.annotation) is dict
            yield from manifest_keys(section, f"{path}.<name>." if is_map else f"{path}.")
        else:
            yield ManifestKey(
                path, _type_name(field.annotation), "" if field.is_required() else _shown(field.get_default())
            )


def _section(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel

    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type_name, arguments))
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is not None:
        return f"{origin.__name__} of {', '.join(map(_type_name, arguments))}"
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    if command.invoke_without_command:
        yield name, command
    for child_name, child in command.commands.items():
        if not child.hidden:
            yield from _commands(child, f"{name} {child_name}")


def _option(command: str, parameter: Any) -> Option:
    is_argument = parameter.param_type_name == "argument"
    name = parameter.name.upper() if is_argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    variable = parameter.envvar or ""
    return Option(
        command,
        name,
        variable if isinstance(variable, str) else ", ".join(variable),
        "required" if parameter.required else _shown(parameter.default),
        " ".join((parameter.help or "").split()),
    )


def _shown(default: Any) -> str:
    if callable(default):
        return ""
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, tuple | list):
        return ", ".join(map(_shown, default))
    if isinstance(default, dict):
        return json.dumps(default)
    if default is None or default is False or "Sentinel" in type(default).__name__:
        return ""
    return _portable(str(default))


def _portable(value: str) -> str:
    """A default that lies below the checkout or the home directory, as it reads on every machine."""
    value = value.replace(str(DEFAULT_STATE_DIR), "~/.local/state/llmstack")
    return value.replace(f"{PROJECT_ROOT}/", "").replace(str(Path.home()), "~")


def _by_command(rows: Iterable[Option]) -> Iterator[tuple[str, list[Option]]]:
    found: dict[str, list[Option]] = {}
    for row in rows:
        found.setdefault(row.command, []).append(row)
    yield from found.items()


def _table(head: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = list(row)
        code = [f"`{cell}`" if cell and title in _CODE else cell for title, cell in zip(head, cells, strict=True)]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in code)} |")
    return "\n".join(lines) + "\n"
