"""The order of a model's work, and which thread does it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests import pb_utils
from tests.pb_utils import InferenceRequest, InferenceResponse

TIMEOUT_S = 20.0


class Item(NamedTuple):
    request: InferenceRequest
    name: str
    is_displaced: bool = False

    @property
    def sender(self) -> pb_utils.ResponseSender:
        return self.request.get_response_sender()

    def displaced(self) -> "Item":
        return self._replace(is_displaced=True)


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    with pb_utils.installed("llm_policy.triton.fair_worker") as (fair_worker,):
        yield fair_worker


def item(name: str) -> Item:
    return Item(InferenceRequest({}, ()), name)


class Clock:
    """A clock that stands still until it is told that time passes."""

    def __init__(self) -> None:
        self._now_s = 1_000.0

    def monotonic(self) -> float:
        return self._now_s

    def pass_s(self, seconds: float) -> None:
        self._now_s += seconds


class Work:
    """What a worker does; it waits at the items named `block`. `takes` is called for each piece of work."""

    def __init__(self) -> None:
        self.takes: Callable[[], None] = lambda: None
        self.batches: list[list[str]] = []
        self.threads: list[str] = []
        self.displaced: list[str] = []
        self.error: BaseException | None = None
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self, items: list[Item]) -> list[Any]:
        self.batches.append([each.name for each in items])
        self.takes()
        self.displaced += [each.name for each in items if each.is_displaced]
        self.threads.append(threading.current_thread().name)
        if any(each.name == "block" for each in items):
            self.began.set()
            assert self.may_end.wait(TIMEOUT_S)
        if self.error is not None:
            raise self.error
        return [None if each.name == "later" else InferenceResponse() for each in items]


@contextmanager
def running(module: Any, displace: Any = None) -> Iterator[SimpleNamespace]:
    work = Work()
    worker = module.FairWorker(work, "worker", displace)
    yield SimpleNamespace(worker=worker, work=work, handle=worker.handle, answer_later=worker.answer_later)
    work.may_end.set()
    worker.close()


@contextmanager
def busy(module: Any, displace: Any = None) -> Iterator[SimpleNamespace]:
    """A worker whose thread is at work."""
    with running(module, displace) as live:
        live.answer_later(lambda: live.work([item("block")]))
        assert live.work.began.wait(TIMEOUT_S)
        live.work.batches.clear()
        yield live


def test_the_calling_thread_works_while_there_is_one_tenant(module):
    with running(module) as live:
        for _ in range(5):
            (response,) = live.handle(["acme"], [item("x")])
            assert isinstance(response, InferenceResponse)
    assert set(live.work.threads) == {threading.current_thread().name}


def test_while_the_thread_works_requests_wait_and_tenants_take_turns(module):
    with busy(module) as live:
        greedy = [item(f"greedy-{number}") for number in range(5)]
        assert live.handle(["greedy"] * 5, greedy) == [None] * 5
        polite = item("polite")
        assert live.handle(["polite"], [polite]) == [None]
        live.work.may_end.set()
        for each in (*greedy, polite):
            assert each.request.answer(TIMEOUT_S).error is None
    assert live.work.batches == [["greedy-0", "polite"], ["greedy-1", "greedy-2"], ["greedy-3", "greedy-4"]]


def test_a_tenant_that_has_more_waiting_rests_beside_another_for_as_long_as_its_turn_took(module, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "BESIDE_S", 1_000.0)
    with busy(module) as live:
        live.work.takes = lambda: clock.pass_s(10.0)
        greedy, polite = [item(f"greedy-{number}") for number in range(4)], [item(f"polite-{n}") for n in range(3)]
        live.handle(["polite"], polite[:1])
        live.handle(["greedy"] * 4, greedy)
        live.work.may_end.set()
        assert greedy[2].request.answer(TIMEOUT_S).error is None
        live.work.takes = lambda: None
        live.handle(["polite"], polite[1:2])
        assert polite[1].request.answer(TIMEOUT_S).error is None
        assert live.work.batches == [["polite-0", "greedy-0"], ["greedy-1", "greedy-2"], ["polite-1"]]
        clock.pass_s(10.0)
        live.handle(["polite"], polite[2:])
        assert greedy[3].request.answer(TIMEOUT_S).error is None


def test_a_tenant_does_not_rest_when_no_other_has_sent_lately(module, monkeypatch):
    monkeypatch.setattr(module, "BESIDE_S", -1.0)
    with busy(module) as live:
        polite, greedy = item("polite"), [item(f"greedy-{number}") for number in range(9)]
        live.handle(["polite"], [polite])
        live.handle(["greedy"] * 9, greedy)
        live.work.may_end.set()
        for each in greedy:
            assert each.request.answer(TIMEOUT_S).error is None
        assert live.worker._rests_until_s == {}


def test_requests_of_several_tenants_that_follow_at_once_are_left_to_the_thread(module, monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", 1_000_000.0)
    with running(module) as live:
        live.handle(["acme"], [item("first")])
        second = item("second")
        assert live.handle(["other"], [second]) == [None]
        assert second.request.answer(TIMEOUT_S).error is None
    assert live.work.threads == [threading.current_thread().name, "worker"]


def test_the_canary_is_no_second_tenant(module, monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", 1_000_000.0)
    with running(module) as live:
        for tenant in ("acme", module.CANARY_TENANT, "acme"):
            live.handle([tenant], [item("x")])
    assert set(live.work.threads) == {threading.current_thread().name}


def test_after_a_pause_the_calling_thread_works_again(module, monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", -1.0)
    with running(module) as live:
        for tenant in ("acme", "other", "acme"):
            (response,) = live.handle([tenant], [item("x")])
            assert isinstance(response, InferenceResponse)
    assert len(live.work.threads) == 3


def test_more_requests_than_one_turn_takes_are_divided(module):
    items = [item(str(number)) for number in range(6)]
    with running(module) as live:
        assert live.handle(["acme"] * 6, items) == [None] * 6
        assert all(each.request.answer(TIMEOUT_S).error is None for each in items)
    assert live.work.batches == [["0", "1", "2", "3"], ["4", "5"]]


def test_a_response_of_none_is_not_sent(module):
    with busy(module) as live:
        live.handle(["acme", "acme"], [later := item("later"), now := item("now")])
        live.work.may_end.set()
        assert now.request.answer(TIMEOUT_S).error is None
    assert not later.request.is_answered


def test_a_late_answer_comes_before_what_waits(module):
    order = []
    with busy(module) as live:
        live.handle(["acme"], [item("x")])
        live.answer_later(lambda: order.append(len(live.work.batches)))
        live.work.may_end.set()
    assert order == [0]
    assert live.work.batches == [["x"]]


def test_the_newest_request_of_the_tenant_with_most_is_displaced_and_answered(module, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    with busy(module, Item.displaced) as live:
        greedy = [item(f"greedy-{number}") for number in range(4)]
        live.handle(["greedy"] * 4, greedy)
        live.handle(["polite"], [polite := item("polite")])
        live.work.may_end.set()
        assert all(each.request.answer(TIMEOUT_S).error is None for each in (*greedy, polite))
    assert live.work.displaced == ["greedy-3", "greedy-2"]


def test_without_displacement_everything_waits(module, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    with busy(module) as live:
        items = [item(str(number)) for number in range(4)]
        live.handle(["acme"] * 4, items)
        live.work.may_end.set()
        assert all(each.request.answer(TIMEOUT_S).error is None for each in items)
    assert live.work.displaced == []


def test_a_fault_in_the_work_answers_its_requests_with_an_error(module, capfd):
    with busy(module) as live:
        live.handle(["acme"], [broken := item("broken")])
        live.work.error = ZeroDivisionError()
        live.work.may_end.set()
        assert broken.request.answer(TIMEOUT_S).error.startswith("internal: ")
    assert "ZeroDivisionError" in capfd.readouterr().out


def test_nothing_is_returned_while_an_answer_is_to_come(module):
    with running(module) as live:
        live.worker.defer()
        first = item("first")
        assert live.handle(["acme"], [first]) == [None]
        assert first.request.answer(TIMEOUT_S).error is None
        live.answer_later(live.work.began.set)
        assert live.work.began.wait(TIMEOUT_S)
    assert live.work.threads == ["worker"]


def test_a_batch_with_a_late_answer_is_sent_not_returned(module):
    with running(module) as live:
        work = live.work.__call__
        live.worker._work = lambda items: (live.worker.defer(), work(items))[1]
        now = item("now")
        assert live.handle(["acme", "acme"], [item("later"), now]) == [None, None]
        assert now.request.answer(TIMEOUT_S).error is None
        live.answer_later(lambda: None)


def test_closing_works_off_what_waits(module):
    with busy(module) as live:
        live.handle(["acme"], [waiting := item("x")])
        live.work.may_end.set()
        live.worker.close()
        assert waiting.request.is_answered
