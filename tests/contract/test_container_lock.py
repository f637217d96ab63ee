"""The container's packages have the locked versions and replace nothing of the base image."""

from __future__ import annotations

import runpy

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmstack.paths import PROJECT_ROOT

# The base image brings these; the container must not install them.
BASE_IMAGE_PACKAGES = {"torch", "transformers", "tokenizers", "numpy", "tensorrt-llm", "triton", "safetensors"}
LOCKED_REQUIREMENTS = runpy.run_path(str(PROJECT_ROOT / "docker" / "locked_requirements.py"))


def container_packages() -> list[str]:
    return LOCKED_REQUIREMENTS["read_names"](PROJECT_ROOT / "requirements" / "container.txt")


def names_for_python_311(requirements: list[str]) -> set[str]:
    parsed = [Requirement(text) for text in requirements]
    return {
        canonicalize_name(each.name)
        for each in parsed
        if each.marker is None or each.marker.evaluate({"python_version": "3.11"})
    }


def test_the_container_replaces_no_package_of_the_base_image():
    assert not {canonicalize_name(name) for name in container_packages()} & BASE_IMAGE_PACKAGES


def test_the_container_has_the_dependencies_of_its_commands():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = names_for_python_311([*project["dependencies"], *project["optional-dependencies"]["board"]])
    assert needed - {canonicalize_name(name) for name in container_packages()} - BASE_IMAGE_PACKAGES == set()


def test_every_package_of_the_container_has_a_locked_version_and_hashes():
    lock = (PROJECT_ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
    entries = LOCKED_REQUIREMENTS["locked_entries"](container_packages(), lock)
    requirements = [entry.splitlines()[0].strip(" \\") for entry in entries]
    assert names_for_python_311(requirements) == {canonicalize_name(name) for name in container_packages()}
    assert all(str(Requirement(text).specifier).startswith("==") for text in requirements)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_an_image_with_an_engines_python_gets_numpy_1_from_the_lock():
    lock = (PROJECT_ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
    (entry,) = LOCKED_REQUIREMENTS["locked_entries"](["numpy"], lock)
    assert Requirement(entry.splitlines()[0].strip(" \\")).specifier.contains("1.26.4")


def test_a_package_without_a_locked_version_is_an_error():
    with pytest.raises(KeyError, match="no entry for missing"):
        LOCKED_REQUIREMENTS["locked_entries"](["orjson", "missing"], "orjson==1 \\\n    --hash=sha256:0\n")
