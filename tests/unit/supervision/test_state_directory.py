"""One service per state directory, and only in a writable one."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.server.error import ServerStartError
from llmstack.supervision.state_directory import DRAINING, StateDirectory

SHORT_TIMEOUT_S = 0.3
HOLD = """
import sys
from pathlib import Path
from llmstack.supervision.state_directory import StateDirectory
with StateDirectory(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
# Leaves a child that inherited the lock, as a killed parent leaves its server.
ORPHAN = """
import subprocess, sys
from pathlib import Path
from llmstack.supervision.state_directory import StateDirectory
state = StateDirectory(Path(sys.argv[1]))
subprocess.Popen(["sh", "-c", "read line"], pass_fds=[state.lock_fd])
print("held", flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that uses the directory until its standard input closes."""
    yield from run(HOLD, tmp_path)


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that has ended, whose child holds the lock until standard input closes."""
    yield from run(ORPHAN, tmp_path)


def run(code: str, directory: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_directory_is_created_and_can_be_used_again(tmp_path):
    for _ in range(2):
        with StateDirectory(tmp_path / "new" / "state") as state:
            state.check_writable()


def test_a_directory_in_use_names_the_process(tmp_path, holder):
    with pytest.raises(ServerStartError, match=f"in use by llmstack serve with process id {holder.pid}") as raised:
        StateDirectory(tmp_path)
    assert "--state-dir" in raised.value.next_step


def test_a_killed_process_releases_the_directory(tmp_path, holder):
    holder.kill()
    holder.wait()
    StateDirectory(tmp_path).check_writable()


def test_the_server_of_a_killed_parent_is_waited_for(tmp_path, orphan):
    assert orphan.wait(10) == 0
    with pytest.raises(ServerStartError, match="in use by a server whose parent is gone"):
        StateDirectory(tmp_path, SHORT_TIMEOUT_S)
    orphan.stdin.close()
    with StateDirectory(tmp_path, 10) as state:
        state.check_writable()


def test_a_second_process_leaves_the_lock_with_the_first(tmp_path, holder):
    with pytest.raises(ServerStartError):
        StateDirectory(tmp_path)
    with pytest.raises(ServerStartError, match=str(holder.pid)):
        StateDirectory(tmp_path)


def test_a_path_that_can_be_no_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ServerStartError, match=r"file/state can't be written: not a directory"):
        StateDirectory(tmp_path / "file" / "state")


def test_a_deleted_directory_is_not_writable(tmp_path):
    with StateDirectory(tmp_path / "state") as state:
        shutil.rmtree(tmp_path / "state")
        with pytest.raises(OSError, match="No such file"):
            state.check_writable()


def test_the_check_leaves_no_file_behind(tmp_path):
    with StateDirectory(tmp_path) as state:
        before = sorted(tmp_path.iterdir())
        state.check_writable()
        assert sorted(tmp_path.iterdir()) == before


def test_the_drain_mark_is_set_and_removed(tmp_path):
    with StateDirectory(tmp_path) as state:
        state.begin_draining()
        assert (tmp_path / DRAINING).exists()
        state.end_draining()
        assert not (tmp_path / DRAINING).exists()


def test_a_drain_mark_of_an_earlier_run_is_removed(tmp_path):
    (tmp_path / DRAINING).touch()
    with StateDirectory(tmp_path):
        assert not (tmp_path / DRAINING).exists()
