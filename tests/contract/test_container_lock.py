"""The container's packages are those that everything else is tested with."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.import_graph import ROOT

# What belongs to the image and is never installed beside it.
OF_THE_IMAGE = {"torch", "transformers", "tokenizers", "numpy", "tensorrt-llm", "triton", "safetensors"}


def read_pins(name: str) -> dict[str, set[str]]:
    """Each package's specifiers in a file of `requirements/`, for CPython 3.11 where a marker asks."""
    return parse_pins((ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines())


def parse_pins(lines: list[str]) -> dict[str, set[str]]:
    pins: dict[str, set[str]] = {}
    for line in lines:
        if (text := line.partition("#")[0].strip(" \\")) and not text.startswith("--hash="):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
                pins.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    return pins


def test_the_container_has_the_versions_of_the_constraints():
    constraints = read_pins("constraints.txt")
    assert {name: pin for name, pin in read_pins("container.in").items() if constraints.get(name) != pin} == {}


def test_the_container_replaces_nothing_of_the_images():
    assert not read_pins("container.txt").keys() & OF_THE_IMAGE


def test_the_container_has_what_its_commands_need():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = parse_pins([*project["dependencies"], *project["optional-dependencies"]["board"]])
    assert needed.keys() - read_pins("container.txt").keys() - OF_THE_IMAGE == set()


def test_the_container_installs_the_listed_versions_by_their_hashes():
    assert read_pins("container.txt") == read_pins("container.in")
    lock = (ROOT / "requirements" / "container.txt").read_text(encoding="utf-8")
    assert all("--hash=sha256:" in requirement for requirement in re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:])
