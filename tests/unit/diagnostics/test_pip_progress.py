"""What `make install` shows of pip."""

import subprocess
import sys
from pathlib import Path

from tests.import_graph import ROOT

QUIET = "print('Collecting numpy<2')\nprint('Downloading numpy')\n"


def install(directory: Path, pip: str) -> subprocess.CompletedProcess[str]:
    """Runs the module with an environment whose pip is the program `pip`."""
    python = directory / "python"
    python.write_text(f"#!{sys.executable}\n{pip}")
    python.chmod(0o755)
    command = [sys.executable, "-m", "llmstack.diagnostics.pip_progress", str(python), "numpy"]
    return subprocess.run(command, cwd=ROOT / "tools", capture_output=True, text=True, timeout=60)


def test_a_successful_installation_prints_nothing_to_a_file(tmp_path):
    done = install(tmp_path, QUIET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_failed_installation_prints_what_pip_said_and_has_its_status(tmp_path):
    done = install(tmp_path, QUIET + "print('ERROR: no space left')\nraise SystemExit(3)\n")
    assert done.returncode == 3
    assert "ERROR: no space left" in done.stderr


def make(*arguments: str) -> str:
    command = ["make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def pinned(name: str) -> set[str]:
    """The packages with versions in a lock file."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return {line.removesuffix(" \\").split(" ;")[0].strip() for line in lines if line[:1].isalpha()}


def test_make_demo_installs_what_it_needs_in_the_versions_of_the_lock(tmp_path):
    commands = make("demo", f"VENV={tmp_path / 'new'}")
    assert "requirements/demo.txt" in commands
    assert "requirements/lock.txt" not in commands
    assert pinned("demo.txt") <= pinned("lock.txt")
    tools = ("ruff==", "mypy==", "pytest==", "hypothesis==", "playwright==", "docker==")
    assert [each for each in pinned("demo.txt") if each.startswith(tools)] == []


def test_make_install_installs_the_whole_lock(tmp_path):
    commands = make("install", f"VENV={tmp_path / 'new'}")
    assert "requirements/lock.txt" in commands
    assert "requirements/demo.txt" not in commands
