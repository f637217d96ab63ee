"""Groups of commands: a bare group prints its help, and a lazy group imports a command when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class LazyCommand(NamedTuple):
    """Where a command is, as `module:name` of a function or a Typer app, and what the list of commands says of it."""

    target: str
    summary: str


class CommandGroup(TyperGroup):
    """A group that prints its help and exits with 0 when it is called alone; in help, flags have no type."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the help where there is nothing to parse."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own options."""
        return _without_flag_types(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _without_flag_types(command.get_params(ctx))
        return command


def lazy_group(commands: Mapping[str, LazyCommand]) -> type[CommandGroup]:
    """The class of a group with these commands. Its help lists them without an import."""

    class LazyGroup(CommandGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands: Any = _ImportedCommands(commands)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            imported = self.commands
            self.commands = {name: TyperCommand(name=name, help=each.summary) for name, each in commands.items()}
            try:
                super().format_help(ctx, formatter)
            finally:
                self.commands = imported

    return LazyGroup


class _ImportedCommands(Mapping[str, Any]):
    """The commands by name; each is imported when it is looked up."""

    def __init__(self, commands: Mapping[str, LazyCommand]) -> None:
        self._commands = commands
        self._imported: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._imported:
            self._imported[name] = _import_command(name, self._commands[name].target)
        return self._imported[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


def _import_command(name: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name = name
        return group
    single = typer.Typer(add_completion=False)
    single.command(name)(found)
    return typer.main.get_command(single)


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """The parameters, of which flags show an empty type: Typer shows `<bool>`, as if they took a value."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
