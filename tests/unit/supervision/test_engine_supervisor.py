"""The engine process is judged by its progress, and started again alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_process.messages import Stats
from llm_policy.release.release import Release
from llmstack.server.engine_process import EngineProcess
from llmstack.supervision.engine_supervisor import (
    MAX_SILENCE_S,
    MAX_STEP_AGE_S,
    NOTICED_SILENCE_S,
    SETTLE_S,
    EngineSupervisor,
)
from llmstack.supervision.readiness import Readiness
from tests.releases import write_release

LOAD_TIMEOUT_S = 100.0


class ScriptedProcess(EngineProcess):
    """An engine process that says what it is told to say."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__("echo", state_dir, state_dir)
        self.num_starts = self.num_kills = 0
        self.runs = False

    @property
    def pid(self) -> int:
        return 1_000 + self.num_starts

    @property
    def is_running(self) -> bool:
        return self.runs

    def start(self) -> None:
        self.num_starts += 1
        self.runs = True
        self.started_at = float(self.num_starts)

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        self.num_kills += self.runs
        self.runs = False


class Scene:
    """A supervisor with its process on a clock that the test moves."""

    def __init__(self, directory: Path, release: Release) -> None:
        self.now_s = 1_000.0
        self.lines: list[str] = []
        self.outages: list[str] = []
        self.readiness = Readiness(release, "echo")
        self.process = ScriptedProcess(directory)
        self.supervisor = EngineSupervisor(
            self.readiness, LOAD_TIMEOUT_S, self.lines.append, self.outages.append, lambda: self.now_s
        )
        self.supervisor.use(self.process)
        self.supervisor.start()

    def answer(self, running: int = 0, step_age_s: float = 0.0) -> None:
        """Let the process answer a poll."""
        start = self.supervisor._read()
        assert start is not None
        self.supervisor._note(start, Stats(running, 0, step_age_s))

    def engine(self) -> dict:
        document = self.readiness.document()["engine_process"]
        return dict(document)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, write_release(tmp_path / "release"))


def test_a_process_that_runs_and_makes_progress_is_left_alone(scene):
    scene.answer(running=3, step_age_s=MAX_STEP_AGE_S - 1)
    scene.supervisor.start()
    scene.supervisor.check()
    assert (scene.process.num_starts, scene.outages) == (1, [])


def test_a_dead_process_is_started_again_alone_and_reported(scene):
    scene.answer()
    scene.process.runs = False
    scene.supervisor.check()
    assert scene.outages == ["the engine process died"]
    assert any("the engine process died" in reason for reason in scene.readiness.document()["reasons"])
    scene.supervisor.check()
    assert scene.process.num_starts == 2
    scene.answer()
    scene.supervisor.check()
    assert not scene.supervisor.is_down
    assert not any("engine" in reason for reason in scene.readiness.document()["reasons"])


@pytest.mark.parametrize(("age_s", "has_fault"), [(MAX_STEP_AGE_S - 1, False), (MAX_STEP_AGE_S + 1, True)])
def test_an_engine_with_work_that_takes_no_step_hangs(scene, age_s, has_fault):
    scene.answer(running=1, step_age_s=age_s)
    assert bool(scene.supervisor.find_fault()) is has_fault


def test_an_idle_engine_is_no_fault_however_old_its_last_step(scene):
    scene.answer(running=0, step_age_s=10 * MAX_STEP_AGE_S)
    assert scene.supervisor.find_fault() == ""


def test_an_engine_that_does_not_answer_hangs_after_a_while(scene):
    scene.answer()
    scene.now_s += MAX_SILENCE_S - 1
    assert scene.supervisor.find_fault() == ""
    scene.now_s += 2
    assert "no answer" in scene.supervisor.find_fault()


def test_a_request_may_wait_for_an_engine_that_is_silent_for_now(scene):
    scene.answer()
    assert not scene.supervisor.is_busy
    scene.now_s += NOTICED_SILENCE_S + 1
    assert scene.supervisor.is_busy
    scene.now_s += MAX_SILENCE_S
    assert not scene.supervisor.is_busy


def test_an_engine_that_is_not_loaded_in_time_is_a_fault(scene):
    scene.now_s += LOAD_TIMEOUT_S - 1
    assert scene.supervisor.find_fault() == ""
    scene.now_s += 2
    assert scene.supervisor.find_fault() == f"the engine is not loaded after {LOAD_TIMEOUT_S:.0f} s"


def test_an_engine_is_settled_some_time_after_it_was_loaded(scene):
    assert not scene.supervisor.is_settled
    scene.answer()
    assert not scene.supervisor.is_settled
    scene.now_s += SETTLE_S + 1
    assert scene.supervisor.is_settled


def test_readyz_counts_restarts_of_the_process(scene):
    scene.answer()
    scene.process.runs = False
    scene.supervisor.check()
    scene.supervisor.check()
    assert (scene.engine()["restarts"], scene.engine()["pid"]) == (1, 1_002)


def test_a_process_that_is_stopped_on_purpose_is_no_outage(scene):
    scene.answer()
    scene.supervisor.stop()
    assert scene.outages == []
    assert scene.process.num_kills == 1
