"""The process of the OpenAI API is started again when it dies, with a wait when that does not help."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstack.server.openai_process import OpenAIProcess
from llmstack.server.ports import listen
from llmstack.supervision.backoff import Backoff
from llmstack.supervision.openai_supervisor import OpenAISupervisor
from llmstack.supervision.readiness import Readiness
from tests.releases import write_release


class ScriptedProcess(OpenAIProcess):
    """A process that lives and dies as the test says."""

    num_starts = 0
    runs = False
    can_start = True

    @property
    def pid(self) -> int | None:
        return 1_000 + self.num_starts if self.runs else None

    @property
    def is_running(self) -> bool:
        return self.runs

    def start(self) -> None:
        self.num_starts += 1
        if not self.can_start:
            raise OSError("no memory")
        self.runs = True

    def stop(self) -> None:
        self.runs = False

    def kill(self) -> None:
        self.runs = False


class Scene:
    def __init__(self, process: ScriptedProcess, readiness: Readiness) -> None:
        self.now_s, self.lines = 1_000.0, []
        self.process, self.readiness = process, readiness
        self.supervisor = OpenAISupervisor(process, readiness, lambda: self.now_s)
        self.supervisor._backoff = Backoff(lambda: self.now_s)

    def check(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.supervisor.check(self.lines.append)

    @property
    def document(self) -> dict:
        return self.readiness.document()["openai"]

    @property
    def is_down(self) -> bool:
        return any(reason.startswith("openai: ") for reason in self.readiness.document()["reasons"])


@pytest.fixture
def scene(tmp_path: Path):
    with listen("127.0.0.1", "openai", 0) as listener:
        process = ScriptedProcess(listener, "127.0.0.1:1", tmp_path, tmp_path)
        yield Scene(process, Readiness(write_release(tmp_path / "release"), "echo"))


def test_readyz_names_the_process(scene):
    scene.supervisor.start()
    assert scene.document == {"pid": 1_001, "port": scene.process.port, "restarts": 0}


def test_a_process_that_dies_is_started_again_at_once(scene):
    scene.supervisor.start()
    scene.process.runs = False
    scene.check()
    assert scene.is_down
    assert scene.document["pid"] is None
    scene.check()
    assert not scene.is_down
    assert scene.document == {"pid": 1_002, "port": scene.process.port, "restarts": 1}
    assert scene.lines == ["outage: the process of the OpenAI API died", "restarted: the process of the OpenAI API"]


def test_one_that_dies_again_and_again_has_to_wait(scene):
    scene.supervisor.start()
    for _ in range(8):
        scene.process.runs = False
        scene.check()
        scene.check()
    assert scene.process.num_starts == 2
    scene.check(after_s=60.0)
    assert scene.process.num_starts == 3


def test_one_that_can_not_be_started_is_tried_again(scene):
    scene.supervisor.start()
    scene.process.runs, scene.process.can_start = False, False
    scene.check()
    scene.check()
    assert scene.is_down
    scene.process.can_start = True
    scene.check(after_s=60.0)
    assert not scene.is_down


def test_a_stop_is_no_outage(scene):
    scene.supervisor.start()
    scene.supervisor.stop()
    scene.check(after_s=60.0)
    assert (scene.process.num_starts, scene.is_down, scene.document["pid"]) == (1, False, None)


def test_another_release_is_served_by_another_process(scene, tmp_path):
    scene.supervisor.start()
    scene.supervisor.use(tmp_path / "next")
    assert (scene.process.release_dir, scene.process.num_starts) == (tmp_path / "next", 2)
    assert scene.document["restarts"] == 0
