"""docs/configuration.md lists every option, environment variable and manifest key, as the code has them now."""

import re
import subprocess

import typer

from llmstack.cli.app import app
from llmstack.cli.configuration import markdown, options
from llmstack.configuration.variables import GROUPS
from tests.import_graph import ROOT

COMMAND = typer.main.get_command(app)
PAGE = ROOT / "docs" / "configuration.md"
SOURCES = ("python_models", "tools/llmstack", "docker", "model_repository", "Makefile", "tests")
OURS = re.compile(r"\bLLMSTACK_[A-Z0-9_]*[A-Z0-9]\b")
# Variables of shell scripts and compose files with a default, such as ${NAME:-default}.
WITH_DEFAULT = re.compile(r"\$\{([A-Z][A-Z0-9_]*):-")
# Read by other programs' conventions, or set by the script itself.
FOREIGN = {"CI"}


def tracked_texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.splitlines()]
    return {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8", errors="ignore")
        for file in files
        if file.is_file() and "configuration" not in file.name and file.parent.name != "configuration"
    }


def listed_variables() -> set[str]:
    from_options = {name for option in options(COMMAND) for name in option.variable.split(", ") if name}
    return from_options | {variable.name for rows in GROUPS.values() for variable in rows}


def test_the_page_is_what_the_code_generates() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(COMMAND)  # llmstack configuration --markdown > PAGE


def test_every_variable_of_the_sources_is_listed() -> None:
    found = set()
    for name, text in tracked_texts().items():
        found |= set(OURS.findall(text))
        if name.startswith("docker/"):
            found |= set(WITH_DEFAULT.findall(text))
    assert found - listed_variables() - FOREIGN == set()


def test_every_listed_variable_is_read_somewhere() -> None:
    everything = "\n".join(tracked_texts().values())
    computed = {name for name in listed_variables() if "_WEBHOOK_" in name}  # from the names of the endpoints
    assert {name for name in listed_variables() - computed if name not in everything} == set()
