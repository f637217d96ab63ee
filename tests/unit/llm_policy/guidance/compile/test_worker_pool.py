"""The pool of workers: a constant number, replaced when they end, and counted for the tenants that use them."""

import selectors
import time
from math import inf

import pytest

from llm_policy.guidance.compile import worker_pool
from llm_policy.guidance.compile.fair_queue import WaitingGuide
from llm_policy.guidance.compile.worker_pool import MAX_STARTING, Job, WorkerPool
from tests.unit.llm_policy.guidance.compile.fake_workers import FakeWorkers

NUM_WORKERS = 2


@pytest.fixture
def workers():
    return FakeWorkers()


@pytest.fixture
def selector():
    with selectors.DefaultSelector() as opened:
        yield opened


@pytest.fixture
def pool(workers, selector):
    created = WorkerPool(NUM_WORKERS, lambda: workers(None, None), selector)
    yield created
    created.close()


def started(pool, workers):
    """Workers that have started and are ready."""
    pool.start_missing()
    found = [workers.next_started() for _ in range(NUM_WORKERS)]
    for worker in found:
        pool.note_ready(worker)
    return found


def job(tenant):
    return Job(WaitingGuide(tenant, ("regex", "a")), 0.0)


def test_workers_are_idle_once_they_are_ready(pool, workers, selector):
    pool.start_missing()
    first, second = workers.next_started(), workers.next_started()
    assert (pool.idle(), pool.has_been_ready) == ([], False)
    pool.note_ready(second)
    assert (pool.idle(), pool.has_been_ready) == ([second], True)
    assert {key.fileobj for key in selector.get_map().values()} == {first, second}


def test_no_more_workers_start_than_are_missing(pool, workers):
    started(pool, workers)
    pool.start_missing()
    assert workers.started.empty()


def test_the_last_worker_starts_when_one_of_the_others_is_ready(workers, selector):
    pool = WorkerPool(MAX_STARTING + 1, lambda: workers(None, None), selector)
    pool.start_missing()
    first, second = (workers.next_started() for _ in range(MAX_STARTING))
    pool.start_missing()
    assert workers.started.empty()
    assert pool.next_deadline() == min(first.deadline, second.deadline)
    pool.note_ready(first)
    pool.start_missing()
    assert workers.next_started() not in (first, second)
    pool.close()


def test_a_worker_with_a_job_is_not_idle_until_it_is_released(pool, workers):
    first, second = started(pool, workers)
    pool.assign(first, task := job("ada"))
    assert (pool.idle(), pool.jobs(), pool.num_used_by("ada"), pool.num_used_by("bob")) == ([second], [task], 1, 0)
    assert pool.release(first) is task
    assert (pool.idle(), pool.jobs(), pool.num_used_by("ada")) == ([first, second], [], 0)


def test_a_dead_worker_is_not_idle(pool, workers):
    first, second = started(pool, workers)
    first.die()
    assert pool.idle() == [second]


def test_the_successor_of_a_stopped_worker_counts_for_its_tenant_until_it_is_ready(pool, workers):
    first, _ = started(pool, workers)
    pool.assign(first, task := job("ada"))
    assert pool.replace(first) is task
    successor = workers.next_started()
    assert not first.is_alive
    assert (pool.num_used_by("ada"), pool.jobs()) == (1, [])
    pool.note_ready(successor)
    assert pool.num_used_by("ada") == 0


def test_the_successor_of_an_idle_worker_counts_for_no_tenant(pool, workers):
    first, _ = started(pool, workers)
    assert pool.replace(first) is None
    assert workers.next_started() is not first
    assert pool.num_used_by("") == 0


def test_workers_that_end_before_they_are_ready_start_again_after_a_pause(pool, workers, monkeypatch):
    pool.start_missing()
    first = workers.next_started()
    workers.next_started()
    monkeypatch.setattr(worker_pool, "RESTART_PAUSE_S", 1_000.0)
    pool.replace(first)
    pool.start_missing()
    assert workers.started.empty()
    assert pool.next_deadline() < inf


def test_a_start_that_fails_is_repeated(selector, workers, monkeypatch):
    monkeypatch.setattr(worker_pool, "RESTART_PAUSE_S", 0.0)
    failures = [OSError("no memory")]

    def start():
        if failures:
            raise failures.pop()
        return workers(None, None)

    pool = WorkerPool(1, start, selector)
    pool.start_missing()
    assert workers.started.empty()
    assert pool.next_deadline() <= time.monotonic()
    pool.start_missing()
    assert workers.next_started() in pool._jobs
    pool.close()


def test_workers_are_overdue_while_they_start_or_work_and_not_while_they_are_idle(pool, workers):
    first, second = started(pool, workers)
    first.deadline = second.deadline = 0.0
    assert (pool.overdue(), pool.next_deadline()) == ([], inf)
    pool.assign(first, job("ada"))
    assert (pool.overdue(), pool.next_deadline()) == ([first], 0.0)
    second.is_ready = False
    assert pool.overdue() == [first, second]


def test_a_closed_pool_has_stopped_all_workers(pool, workers, selector):
    found = started(pool, workers)
    pool.assign(found[0], job("ada"))
    pool.close()
    assert [worker.is_alive for worker in found] == [False, False]
    assert not selector.get_map()
