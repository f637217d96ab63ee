"""Long work keeps neither /livez nor whoever wants a stop or a turn waiting."""

import threading
import time
from types import SimpleNamespace

import pytest

from llmstack.supervision.preemption import Preempted
from llmstack.supervision.readiness import Readiness
from llmstack.supervision.stop_signals import StopRequested
from llmstack.supervision.supervisor import SUPERVISOR, Supervisor
from tests.releases import write_release


class CountingReadiness(Readiness):
    num_pulses = 0

    def pulse(self, thread: str) -> None:
        super().pulse(thread)
        self.num_pulses += thread == SUPERVISOR


def stop(is_asked: bool) -> SimpleNamespace:
    def check() -> None:
        if is_asked:
            raise StopRequested

    return SimpleNamespace(check=check)


@pytest.fixture
def readiness(tmp_path):
    return CountingReadiness(write_release(tmp_path / "r1"), "echo")


def supervisor(readiness, is_stop_asked=False, should_yield=lambda: False) -> Supervisor:
    return Supervisor(None, None, readiness, None, stop(is_stop_asked), 1.0, 1.0, lambda text: None, should_yield)


def test_the_supervisor_pulses_while_a_large_engine_is_hashed(readiness):
    def hash_it() -> str:
        while readiness.num_pulses < 3:
            time.sleep(0.01)
        return "hashed"

    assert supervisor(readiness).run_interruptibly(hash_it) == "hashed"


def test_what_the_work_raises_is_raised(readiness):
    with pytest.raises(ValueError, match="no release"):
        supervisor(readiness).run_interruptibly(lambda: (_ for _ in ()).throw(ValueError("no release")))


@pytest.mark.parametrize(("asked", "raised"), [({"is_stop_asked": True}, StopRequested), ({}, Preempted)])
def test_nobody_who_wants_a_stop_or_a_turn_waits_for_the_work(readiness, asked, raised):
    over = threading.Event()
    with pytest.raises(raised):
        supervisor(readiness, should_yield=lambda: True, **asked).run_interruptibly(over.wait)
    over.set()


def test_a_recovery_is_left_off_when_somebody_wants_a_turn(readiness):
    one = supervisor(readiness, should_yield=lambda: True)
    one.books = SimpleNamespace(record_engine_unhealthy=lambda now_ns, reason: None)
    one.stop.is_asked = False
    assert one.recover("it died") is False
    assert not one.is_healthy
