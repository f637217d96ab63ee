"""The Markdown pages agree with the project: links, paths, commands, options, variables and code."""

import ast
import re

import pytest
import typer

from llmstack.cli.app import app
from llmstack.cli.configuration import options
from llmstack.configuration.variables import GROUPS
from tests.import_graph import ROOT
from tests.markdown import PAGES, blocks, commands, links, paths

SHELL = ("", "sh", "console")
COMMAND = typer.main.get_command(app)
# A path may leave out the directory that its page is about.
PATH_ROOTS = ("", "python_models", "python_models/llm_policy", "python_models/llm_policy/guidance", "tools",
              "tools/llmstack", "tests")  # fmt: skip

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@by_page
def test_links_lead_to_files(page):
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@by_page
def test_paths_of_source_files_exist(page):
    missing = [path for path in paths(page) if not any(list((ROOT / root).glob(path)) for root in PATH_ROOTS)]
    assert missing == []


@by_page
def test_python_blocks_are_python(page):
    for block in blocks(page):
        if block.language in ("python", "py"):
            ast.parse(block.text)


def faults_of(arguments):
    """What a call of llmstack names that does not exist."""
    command = COMMAND
    words = list(arguments)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    known = {"--help"}.union(*(set(p.opts) | set(p.secondary_opts) for p in command.params))
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return [option for option in given if option not in known]


@by_page
def test_commands_and_their_options_exist(page):
    faults = {
        (block.line, " ".join(arguments)): found
        for block in blocks(page)
        if block.language in SHELL
        for arguments in commands(block, "llmstack")
        if (found := faults_of(arguments))
    }
    assert faults == {}


@by_page
def test_variables_exist(page):
    known = {name for option in options(COMMAND) for name in option.variable.split(", ")}
    known |= {variable.name for rows in GROUPS.values() for variable in rows}
    named = set(re.findall(r"\bLLMSTACK_[A-Z0-9_]*[A-Z0-9]\b", page.read_text(encoding="utf-8")))
    assert named - known == set()


def test_the_readme_writes_every_command_of_the_gpu_steps_out():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## From Qwen3-32B.*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert "…" not in section[0]
    assert "trtllm-build" in section[0]


def test_every_page_is_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        targets = [(page.parent / target).resolve() for target in links(page)]
        found = [path for target in targets for path in (target.glob("*.md") if target.is_dir() else [target])]
        waiting += [path for path in found if path.suffix == ".md" and path.is_file() and path not in seen]
    assert set(PAGES) - seen == set()
