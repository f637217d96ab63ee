"""`--help` of every command: examples, flags without a value, and nothing imported that help does not need."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmstack.cli.app import app
from tests.import_graph import ROOT

# Each takes 10 ms or more of processor time to import. Typer itself parses numbers by pydantic.
HEAVY = (
    "numpy",
    "httpx",
    "pyarrow",
    "uvicorn",
    "starlette",
    "grpc",
    "tritonclient",
    "structlog",
    "msgspec",
    "psutil",
    "prometheus_client",
    "standardwebhooks",
    "torch",
    "transformers",
    "xgrammar",
    "llguidance",
    "openai",
    "docker",
    "jinja2",
    "jsonschema_rs",
)


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that call it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *path, name)


COMMANDS = dict(commands(typer.main.get_command(app)))
GROUPS = [path for path, command in COMMANDS.items() if hasattr(command, "commands")]
every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@every_command
def test_help_has_an_example(path):
    assert "Example: " in run(*path, "--help")[1]


@every_command
def test_help_shows_flags_without_a_value(path):
    status, output = run(*path, "--help")
    assert status == 0
    assert "--help" in output
    assert "<bool>" not in output


@pytest.mark.parametrize("path", [path for path in GROUPS if path != ("bench",)], ids=" ".join)
def test_a_group_without_arguments_prints_its_help_and_exits_with_0(path):
    status, output = run(*path)
    assert status == 0
    assert output == run(*path, "--help")[1]


def test_the_help_of_the_program_lists_every_command():
    _, output = run("--help")
    assert [path[0] for path in COMMANDS if len(path) == 1 and f"│ {path[0]} " not in output] == []


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert run("--version") == (0, f"llmstack {version('llm-serving-stack')}\n")


# A module stays imported, so one process shows what the help of all commands needs.
HELP = """
import sys
from typer.testing import CliRunner
from llmstack.cli.app import app
for words in {paths}:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
    found = [name for name in {heavy} if name in sys.modules]
    assert not found, (words, found)
"""


def test_help_of_every_command_imports_no_heavy_package():
    program = HELP.format(paths=list(COMMANDS), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


READY = """
import sys
from typer.testing import CliRunner
from llmstack.cli.app import app
result = CliRunner().invoke(app, ["ready", "--url", "http://127.0.0.1:1/readyz"])
assert result.exit_code == 1, result.output
found = [name for name in {heavy} if name in sys.modules]
assert not found, found
"""


def test_ready_imports_its_http_client_alone():
    heavy = [name for name in HEAVY if name != "httpx"]
    program = READY.format(heavy=heavy)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_help_of_bench_tenants_names_every_flood():
    from llmstack.bench.plans import FLOOD_NAMES
    from llmstack.bench.tenant_flood import FLOODS

    assert list(FLOOD_NAMES) == [flood.name for flood in FLOODS]
