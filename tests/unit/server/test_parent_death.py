"""However a process ends, the program that it started ends too."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llmstack.server import parent_death

# A program with a child that would outlive it; only SIGKILL ends them.
PROGRAM = "trap '' TERM INT HUP; sleep 300 & echo $$ $!; wait"
PARENT = """
import os, subprocess, sys
command = [sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), sys.argv[2], "/bin/sh", "-c", sys.argv[3]]
subprocess.Popen(command, start_new_session=sys.argv[4] == "group")
sys.stdin.read()
"""


@pytest.fixture
def parent(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen]:
    number, session = request.param
    command = [sys.executable, "-c", PARENT, parent_death.__file__, str(int(number)), PROGRAM, session]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process
        process.kill()


def read_processes(parent: subprocess.Popen) -> tuple[psutil.Process, psutil.Process]:
    program, child = (psutil.Process(int(word)) for word in parent.stdout.readline().split())
    return program, child


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def becomes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def are_gone(*processes: psutil.Process) -> bool:
    return becomes_true(lambda: not any(is_alive(each) for each in processes))


def has_pending(process: psutil.Process, number: int) -> bool:
    """Whether the signal was sent to the process and not yet received."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = re.search(r"^ShdPnd:\s*(\w+)$", status, re.MULTILINE)
    assert pending
    return bool(int(pending[1], 16) >> (number - 1) & 1)


def await_handled_signals(watcher: psutil.Process) -> None:
    """Wait until the watcher has acted on the signals sent so far: it receives another after them."""
    assert becomes_true(lambda: not has_pending(watcher, signal.SIGTERM))
    watcher.send_signal(signal.SIGTERM)
    assert becomes_true(lambda: not has_pending(watcher, signal.SIGTERM))


in_group = pytest.mark.parametrize("parent", [(signal.SIGKILL, "group")], indirect=True)


@in_group
def test_the_death_of_the_parent_ends_the_program_and_its_children(parent):
    processes = read_processes(parent)
    parent.kill()
    assert are_gone(*processes)


@in_group
def test_the_death_of_the_program_ends_its_children(parent):
    program, child = read_processes(parent)
    program.kill()
    assert are_gone(child)


@in_group
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_does_not_end_a_program_that_ignores_it(parent, number):
    program, child = read_processes(parent)
    (watcher,) = set(program.children()) - {child}
    os.killpg(program.pid, number)
    await_handled_signals(watcher)
    assert is_alive(program)
    assert is_alive(child)
    program.kill()  # the watcher is still alive
    assert are_gone(child)


@in_group
def test_the_watcher_ends_with_the_program(parent):
    program, _ = read_processes(parent)
    family = program.children(recursive=True)
    assert len(family) == 2  # its child and the watcher
    program.kill()
    assert are_gone(*family)


@pytest.mark.parametrize("parent", [(signal.SIGTERM, "no group")], indirect=True)
def test_a_program_in_another_process_group_ends_alone(parent):
    program, child = read_processes(parent)
    assert program.children(recursive=True) == [child]  # it has no watcher, so nothing would end the child later
    program.kill()
    assert are_gone(program)
    assert is_alive(child)
    assert parent.poll() is None
    child.kill()


def test_a_dead_parent_is_detected():
    command = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid() + 1), "9", "/bin/echo", "it ran"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")


@pytest.mark.parametrize("hard_limit", ["unlimited", "0"])
def test_a_program_that_crashes_leaves_no_core(tmp_path, hard_limit):
    crash = "grep core.file /proc/self/limits; kill -ABRT $$"
    launcher = f"{sys.executable} -I -S {parent_death.__file__} $$ {int(signal.SIGKILL)}"
    script = f"ulimit -c {hard_limit}; {launcher} /bin/sh -c '{crash}'; exit $?"
    ran = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 128 + signal.SIGABRT, ran.stderr
    assert ran.stdout.split()[4] in ("0", "1")
    assert list(tmp_path.iterdir()) == []
