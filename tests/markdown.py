"""Code blocks and links of this project's Markdown pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.import_graph import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_PATH = re.compile(r"`(?P<path>[\w.-]+(?:/[\w.*-]+)+\.(?:py|md|sh|yml|j2|lua|pbtxt|toml))`")
_END_OF_COMMAND = re.compile(r"\s(?:\||>|&&|;|#)(?:\s|$)")


class Block(NamedTuple):
    """One fenced block: `line` is the number of its first line in the page."""

    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        indent = match["indent"]
        lines = [line.removeprefix(indent) for line in match["text"].splitlines()]
        yield Block(page, text.count("\n", 0, match.start()) + 2, match["language"], "\n".join(lines) + "\n")


def links(page: Path) -> Iterator[str]:
    """Targets of links that lead to files of this project."""
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", match["target"]):
            yield match["target"].partition("#")[0]


def paths(page: Path) -> Iterator[str]:
    """Paths of source files in backticks."""
    for match in _PATH.finditer(page.read_text(encoding="utf-8")):
        yield match["path"]


def commands(block: Block, program: str) -> Iterator[list[str]]:
    """The arguments of each call of `program` in a block of shell commands."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        call = line.strip().removeprefix("$ ")
        call = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", call).removeprefix(".venv/bin/")
        if call.startswith(f"{program} "):
            end = _END_OF_COMMAND.search(call)
            yield shlex.split(call[: end.start()] if end else call)[1:]
