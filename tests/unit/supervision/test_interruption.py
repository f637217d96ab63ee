"""Long work and recoveries of the server thread are interrupted by a stop or a release change."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from llm_policy.release.release import Release
from llmstack.server.process import TritonServer
from llmstack.supervision.interruption import Preempted
from llmstack.supervision.readiness import Readiness
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.stop_signals import StopRequested
from llmstack.supervision.supervisor import SUPERVISOR, Supervisor
from tests.releases import write_release


class CountingReadiness(Readiness):
    def __init__(self, release: Release, engine: str) -> None:
        super().__init__(release, engine)
        self.pulses = threading.Semaphore(0)

    def pulse(self, thread: str) -> None:
        super().pulse(thread)
        if thread == SUPERVISOR:
            self.pulses.release()


def stop(is_requested: bool) -> SimpleNamespace:
    def check() -> None:
        if is_requested:
            raise StopRequested

    return SimpleNamespace(check=check, is_requested=is_requested)


@pytest.fixture
def readiness(tmp_path):
    return CountingReadiness(write_release(tmp_path / "r1"), "echo")


def supervisor(readiness, is_stop_requested=False, should_yield=lambda: False) -> Supervisor:
    ledger: Any = SimpleNamespace(record_engine_unhealthy=lambda now_ns, reason: None)
    signals: Any = stop(is_stop_requested)
    server = TritonServer()  # never started
    return Supervisor(server, None, readiness, ledger, signals, ServiceSettings(), lambda text: None, should_yield)


def test_the_supervisor_sends_pulses_while_a_large_engine_is_hashed(readiness):
    def hash_it() -> str:
        return "hashed" if all(readiness.pulses.acquire(timeout=30) for _ in range(3)) else "no pulse"

    assert supervisor(readiness).run_interruptibly(hash_it) == "hashed"


def test_an_exception_of_the_work_is_raised(readiness):
    with pytest.raises(ValueError, match="no release"):
        supervisor(readiness).run_interruptibly(lambda: (_ for _ in ()).throw(ValueError("no release")))


@pytest.mark.parametrize(("options", "raised"), [({"is_stop_requested": True}, StopRequested), ({}, Preempted)])
def test_a_stop_or_a_preemption_abandons_the_work(readiness, options, raised):
    end = threading.Event()
    with pytest.raises(raised):
        supervisor(readiness, should_yield=lambda: True, **options).run_interruptibly(end.wait)
    end.set()


def test_a_preemption_interrupts_a_recovery(readiness):
    preempted = supervisor(readiness, should_yield=lambda: True)
    assert preempted.recover("it died") is False
    assert not preempted.is_healthy
