"""However a process ends, the program that it started ends too."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

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


def are_gone(*processes: psutil.Process) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(is_alive(each) for each in processes):
            return True
        time.sleep(0.02)
    return False


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
    os.killpg(program.pid, number)
    time.sleep(0.5)
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
    program.kill()
    assert not psutil.wait_procs([child], timeout=0.5)[0]
    assert parent.poll() is None
    child.kill()


def test_a_dead_parent_is_detected():
    command = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid() + 1), "9", "/bin/echo", "it ran"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
