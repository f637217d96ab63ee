"""The wheel, really built: whatever lies beside the modules in the source lies beside them when it is installed."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.import_graph import ROOT

SOURCES = ("python_models", "tools")
LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    """Paths of the files in the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, directory / name, ignore=LEFTOVERS)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, directory)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (directory / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def is_leftover(path):
    return path.suffix == ".pyc" or any(part.endswith(".egg-info") for part in path.parts)


def test_every_file_of_the_packages_is_in_the_wheel(wheel_names):
    files = [
        path.relative_to(ROOT / source)
        for source in SOURCES
        for path in (ROOT / source).rglob("*")
        if path.is_file() and not is_leftover(path)
    ]
    assert any(path.suffix == ".lua" for path in files)
    assert {str(path) for path in files} - wheel_names == set()
