"""Dead stubs are found among processes with the stub's name."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.supervision.stub_watch import STUB, LoadWatch, StubWatch


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


def test_living_stubs_are_not_reported(stubs):
    assert StubWatch(os.getpid()).find_dead() == []


def test_a_killed_stub_is_named_by_its_instance(stubs):
    watch = StubWatch(os.getpid())
    stubs["preprocess_0_0"].kill()
    deadline = time.monotonic() + 10
    while not watch.find_dead() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watch.find_dead() == ["preprocess_0_0"]


def test_a_stub_that_its_server_ended_is_not_reported(stubs):
    watch = StubWatch(os.getpid())
    stubs["preprocess_0_0"].kill()
    stubs["preprocess_0_0"].wait()  # as a server does that unloads a model
    assert watch.find_dead() == []


def test_a_zombie_that_its_loading_server_does_not_reap_is_a_dead_stub():
    watch = LoadWatch(os.getpid(), max_zombie_s=0.1)
    child = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and a zombie until it is waited for
        assert not watch.has_dead_stub()
        time.sleep(0.2)
        assert watch.has_dead_stub()
    finally:
        child.wait()
    assert not watch.has_dead_stub()
