"""Dead stubs are found among processes with the stub's name."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.supervision.stub_watch import MAX_ZOMBIE_S, STUB, LoadWatch, StubWatch


@pytest.fixture
def stubs(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen]]:
    """Two children of this process, as Triton starts its stubs."""
    (tmp_path / STUB).symlink_to("/bin/sh")
    started = {}
    for instance in ("preprocess_0_0", "postprocess_0_0"):
        command = [str(tmp_path / STUB), "-c", "read line", instance, "DEFAULT"]
        started[instance] = subprocess.Popen(command, stdin=subprocess.PIPE)
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def await_zombie(child: subprocess.Popen) -> None:
    """Wait until the process is dead, and leave it unreaped."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_living_stubs_are_not_reported(stubs):
    assert StubWatch(os.getpid()).find_dead() == []


def test_a_killed_stub_is_named_by_its_instance(stubs):
    watch = StubWatch(os.getpid())
    stubs["preprocess_0_0"].kill()
    await_zombie(stubs["preprocess_0_0"])
    assert watch.find_dead() == ["preprocess_0_0"]


def test_a_stub_that_its_server_ended_is_not_reported(stubs):
    watch = StubWatch(os.getpid())
    stubs["preprocess_0_0"].kill()
    stubs["preprocess_0_0"].wait()  # as a server does that unloads a model
    assert watch.find_dead() == []


# A server that never reaps its only child; it ends by itself when its standard input closes.
SERVER = "import os, sys; child = os.fork() or os._exit(0); os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)"
SERVER += "; print(child, flush=True); sys.stdin.readline(); os.waitpid(child, 0); print('reaped', flush=True)"
SERVER += "; sys.stdin.readline()"


def test_a_zombie_that_its_loading_server_does_not_reap_is_a_dead_stub():
    now_s = 100.0
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as server:
        watch = LoadWatch(server.pid, lambda: now_s)
        server.stdout.readline()
        assert not watch.has_dead_stub()
        now_s += MAX_ZOMBIE_S - 1
        assert not watch.has_dead_stub()
        now_s += 1
        assert watch.has_dead_stub()
        server.stdin.write("reap\n")
        server.stdout.readline()
        assert not watch.has_dead_stub()
