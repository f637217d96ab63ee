"""The check of the Python version that runs before anything is installed."""

import subprocess
import sys

import pytest

from llmstack.diagnostics.check_python import check_python
from llmstack.paths import PROJECT_ROOT


@pytest.mark.parametrize("version", [(3, 9), (3, 13)])
def test_an_unsupported_python_is_named_with_a_next_step(version):
    text = check_python(version)
    assert f"Python {version[0]}.{version[1]} is not supported" in text
    assert "next:" in text


def test_it_runs_without_installed_packages():
    command = [sys.executable, "-S", "-m", "llmstack.diagnostics.check_python"]
    done = subprocess.run(command, env={"PYTHONPATH": str(PROJECT_ROOT / "tools")}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
