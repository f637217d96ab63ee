"""The version is known with and without an installation."""

from __future__ import annotations

import os
import subprocess
import sys

from llmstack.paths import PROJECT_ROOT
from llmstack.version import UNKNOWN, project_version

SOURCES = ("tools/llmstack/__init__.py", "tools/llmstack/paths.py", "tools/llmstack/version.py")
PROGRAM = "from llmstack.version import project_version; print(project_version())"


def version_without_installation(root):
    """The version that a Python prints which sees only the sources below `root`."""
    path = os.pathsep.join(str(root / each) for each in ("tools", "python_models"))
    command = [sys.executable, "-S", "-c", PROGRAM]
    done = subprocess.run(
        command, env={"PYTHONPATH": path, "HOME": str(root)}, cwd=root, check=True, text=True, capture_output=True
    )
    return done.stdout.strip()


def test_a_checkout_that_is_not_installed_has_the_version_of_its_pyproject():
    assert version_without_installation(PROJECT_ROOT) == project_version()


def test_sources_alone_have_no_known_version(tmp_path):
    for name in (*SOURCES, "python_models/llm_policy/__init__.py"):
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((PROJECT_ROOT / name).read_bytes())
    assert version_without_installation(tmp_path) == UNKNOWN
