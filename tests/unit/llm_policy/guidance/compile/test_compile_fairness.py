"""The compile queue with workers that the test controls: who gets a worker, who waits, and who is rejected."""

import os
import queue
import threading
from pathlib import Path

import pytest

from llm_policy.errors import Code
from llm_policy.guidance.compile import compile_queue
from llm_policy.guidance.compile.compile_queue import NUM_WORKERS, GuideCompiler
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.guide import Guide
from llm_policy.release.manifest import Guidance
from tests.unit.llm_policy.guidance.compile.fake_workers import TIMEOUT_S, FakeWorkers

FLOOD, NEWCOMER = "flood", "newcomer"


@pytest.fixture
def workers(monkeypatch):
    fakes = FakeWorkers()
    monkeypatch.setattr(compile_queue, "SandboxedWorker", fakes)
    return fakes


@pytest.fixture
def start(workers, tmp_path):
    """Start a compiler whose guides all come within the limit of a minute."""
    started = []

    def start_compiler(max_adhoc_per_minute=10_000, **options):
        cache = GuideCache(tmp_path / "guides.db", "test")
        guidance = Guidance(max_adhoc_per_minute=max_adhoc_per_minute)
        started.append(GuideCompiler(guidance, Path("unused"), cache, faults.append, **options))
        return started[-1]

    faults = []
    yield start_compiler
    for compiler in started:
        compiler.close()
    assert faults == []


class Answers:
    """What requests are answered, by the tenant that sent them and the text of their first guide."""

    def __init__(self, compiler):
        self._compiler = compiler
        self._answers = queue.Queue()

    def submit(self, tenant, *texts, name=""):
        guides = [Guide("regex", text, name and text) for text in texts]
        self._compiler.submit(guides, lambda error: self._answers.put((tenant, texts[0], error)), tenant)

    def next(self):
        return self._answers.get(timeout=TIMEOUT_S)

    def errors(self, count):
        """The texts of the next answers' guides and the codes of their errors."""
        answers = [self.next() for _ in range(count)]
        return {text: error.code if error else None for _, text, error in answers}

    @property
    def is_empty(self):
        return self._answers.empty()


@pytest.fixture
def compiler(start):
    return start()


@pytest.fixture
def answers(compiler):
    return Answers(compiler)


def sent(workers, count):
    """The workers of the next guides that are sent, by the guides' texts."""
    return {text: worker for worker, text in (workers.next_sent() for _ in range(count))}


def test_one_tenants_flood_leaves_a_worker_for_anothers_first_guide(answers, workers):
    for number in range(64):
        answers.submit(FLOOD, f"(a*)*b{number}")
    assert set(sent(workers, NUM_WORKERS - 1)) == {"(a*)*b0", "(a*)*b1"}
    answers.submit(NEWCOMER, "first")
    sent(workers, 1)["first"].report()
    assert answers.next() == (NEWCOMER, "first", None)
    assert answers.is_empty
    assert workers.sent.empty()


def test_registered_schemas_may_use_all_workers(answers, workers):
    for number in range(NUM_WORKERS):
        answers.submit("", f"r{number}", name="registered")
    assert len(sent(workers, NUM_WORKERS)) == NUM_WORKERS


def test_the_next_free_worker_goes_to_the_tenant_that_waits_without_one(answers, workers):
    for number in range(4):
        answers.submit(FLOOD, f"a{number}")
    busy = sent(workers, 2)
    answers.submit("second", "b0")
    busy |= sent(workers, 1)
    answers.submit("third", "c0")
    busy["a0"].report()
    assert set(sent(workers, 1)) == {"c0"}


def test_a_tenant_leaves_the_only_other_worker_that_has_started_to_the_others(start, workers):
    workers.starts_ready = False
    answers = Answers(start())
    for number in range(4):
        answers.submit(FLOOD, f"a{number}")
    started = [workers.next_started() for _ in range(2)]
    started[0].announce()
    sent(workers, 1)
    started[1].announce()
    answers.submit(NEWCOMER, "first")
    assert sent(workers, 1) == {"first": started[1]}


def test_the_first_worker_goes_to_the_tenant_with_fewest_guides(start, workers):
    workers.starts_ready = False
    answers = Answers(start())
    for number in range(4):
        answers.submit(FLOOD, f"a{number}")
    answers.submit(NEWCOMER, "first")
    workers.next_started().announce()
    assert set(sent(workers, 1)) == {"first"}


def test_a_guide_that_stops_workers_leaves_a_worker_to_the_others_while_they_restart(answers, workers):
    for number in range(4):
        answers.submit(FLOOD, f"a{number}")
    busy = sent(workers, 2)
    workers.starts_ready = False
    for _ in range(NUM_WORKERS):
        workers.next_started()
    for worker in busy.values():
        worker.die()
    restarted = [workers.next_started() for _ in busy]
    answers.submit(NEWCOMER, "first")
    sent(workers, 1)["first"].report()
    assert answers.next() == (NEWCOMER, "first", None)
    assert workers.sent.empty()
    for worker in restarted:
        worker.announce()
    ((text, worker),) = sent(workers, 1).items()
    assert text in busy
    assert worker in restarted


def test_a_guide_that_stops_a_second_worker_is_rejected(answers, workers):
    answers.submit(FLOOD, "crash")
    sent(workers, 1)["crash"].die()
    sent(workers, 1)["crash"].die()
    _, _, error = answers.next()
    assert str(error) == "schema_too_complex: guide stopped the grammar compiler"


def test_the_second_try_of_a_guide_waits_for_a_worker_that_lived_after_the_first(answers, workers):
    first = [workers.next_started() for _ in range(NUM_WORKERS)]
    answers.submit(FLOOD, "crash")
    sent(workers, 1)["crash"].die()
    assert sent(workers, 1)["crash"] not in first


def test_a_worker_that_dies_while_it_is_idle_costs_its_guide_nothing(answers, workers):
    broken = [workers.next_started() for _ in range(NUM_WORKERS)]
    answers.submit(NEWCOMER, "warm")
    sent(workers, 1)["warm"].report()
    answers.next()
    for worker in broken:
        worker.breaks_pipe = True
    answers.submit(NEWCOMER, "a")
    for worker in broken:
        worker.die()
    worker = sent(workers, 1)["a"]
    assert worker not in broken
    worker.report()
    assert answers.next() == (NEWCOMER, "a", None)


def test_a_guide_of_the_cache_file_needs_no_worker(start, workers, tmp_path):
    GuideCache(tmp_path / "guides.db", "test").put("regex", "known", GuideReport(engine_type="regex"))
    workers.starts_ready = False
    reports = queue.Queue()
    compiler = start(max_adhoc_per_minute=1, on_report=reports.put)
    answers = Answers(compiler)
    answers.submit(FLOOD, "new")
    answers.submit(FLOOD, "known")
    assert answers.next() == (FLOOD, "known", None)
    assert reports.get(timeout=TIMEOUT_S) is None
    assert compiler.lookup(Guide("regex", "known")) is not None


def test_requests_do_not_expire_before_a_worker_was_ready(start, workers, monkeypatch, tmp_path):
    monkeypatch.setattr(compile_queue, "MAX_WAIT_S", -1.0)
    GuideCache(tmp_path / "guides.db", "test").put("regex", "known", GuideReport(engine_type="regex"))
    workers.starts_ready = False
    answers = Answers(start())
    answers.submit(FLOOD, "new")
    for text in ("known", "known"):  # two rounds of the compiler's thread
        answers.submit(NEWCOMER, text)
        assert answers.next() == (NEWCOMER, "known", None)
    workers.next_started().announce()
    assert answers.errors(1) == {"new": Code.GUIDANCE_UNAVAILABLE}


def test_a_full_queue_gives_the_place_of_the_fullest_tenants_newest_guide_to_another(start, workers, monkeypatch):
    monkeypatch.setattr(compile_queue, "MAX_WAITING_GUIDES", 3)
    workers.starts_ready = False
    answers = Answers(start())
    for number in range(3):
        answers.submit(FLOOD, f"a{number}")
    answers.submit(NEWCOMER, "first")
    tenant, text, error = answers.next()
    assert (tenant, text) == (FLOOD, "a2")
    assert str(error) == (
        "guidance_unavailable: this tenant's newest waiting new guide gave its place to another tenant, "
        "limit 3 of all tenants together; try again later"
    )
    for worker in (workers.next_started(), workers.next_started()):
        worker.announce()
    assert set(sent(workers, 2)) == {"first", "a0"}


def test_a_tenant_that_fills_the_queue_is_told_the_limit_and_its_own_part(start, workers, monkeypatch):
    monkeypatch.setattr(compile_queue, "MAX_WAITING_GUIDES", 2)
    workers.starts_ready = False
    answers = Answers(start())
    for number in range(3):
        answers.submit(FLOOD, f"a{number}")
    _, text, error = answers.next()
    assert text == "a2"
    assert str(error) == (
        "guidance_unavailable: 2 new guides wait, 2 of them of this tenant, limit 2 of all tenants together; "
        "try again later"
    )


def test_waiting_requests_are_shared_like_waiting_guides(start, workers, monkeypatch):
    monkeypatch.setattr(compile_queue, "MAX_WAITING_REQUESTS", 2)
    workers.starts_ready = False
    answers = Answers(start())
    answers.submit(FLOOD, "a")
    answers.submit(FLOOD, "a")
    with pytest.raises(Exception, match=r"^guidance_unavailable: 2 requests wait for new guides, 2 of them of this"):
        answers.submit(FLOOD, "a")
    answers.submit(NEWCOMER, "first")
    tenant, _, error = answers.next()
    assert tenant == FLOOD
    assert str(error).startswith("guidance_unavailable: this tenant's newest waiting request gave its place")
    assert answers.is_empty


def test_a_guide_that_another_tenants_queue_has_is_compiled_in_the_own_turn(answers, workers):
    for number in range(8):
        answers.submit(FLOOD, f"a{number}")
    sent(workers, 2)
    answers.submit(NEWCOMER, "a7")
    sent(workers, 1)["a7"].report()
    assert {answers.next()[0], answers.next()[0]} == {FLOOD, NEWCOMER}


def test_a_guide_that_is_in_progress_is_not_sent_again(answers, workers):
    answers.submit(FLOOD, "same")
    worker = sent(workers, 1)["same"]
    answers.submit(NEWCOMER, "same")
    answers.submit(NEWCOMER, "other")
    sent(workers, 1)["other"].report()
    assert answers.next() == (NEWCOMER, "other", None)
    worker.report()
    assert {answers.next()[0], answers.next()[0]} == {FLOOD, NEWCOMER}


def test_another_tenants_guide_does_not_count_as_new(start, workers):
    answers = Answers(start(max_adhoc_per_minute=1))
    answers.submit(FLOOD, "same")
    worker = sent(workers, 1)["same"]
    answers.submit(NEWCOMER, "same")
    answers.submit(NEWCOMER, "other")
    assert answers.next()[1:2] == ("other",)
    worker.report()
    assert {answers.next()[2], answers.next()[2]} == {None}


def test_a_tenant_that_used_its_share_of_the_minute_does_not_stop_anothers_first_guide(start, workers):
    answers = Answers(start(max_adhoc_per_minute=8))
    for number in range(8):
        answers.submit(FLOOD, f"a{number}")
    assert answers.errors(2) == {"a6": Code.GUIDANCE_UNAVAILABLE, "a7": Code.GUIDANCE_UNAVAILABLE}
    sent(workers, 2)
    answers.submit(NEWCOMER, "first")
    sent(workers, 1)["first"].report()
    assert answers.next() == (NEWCOMER, "first", None)


def test_expired_guides_are_not_compiled_any_more(answers, workers, monkeypatch):
    monkeypatch.setattr(compile_queue, "MAX_WAIT_S", 0.0)
    for number in range(4):
        answers.submit(FLOOD, f"a{number}")
    assert set(answers.errors(4).values()) == {Code.GUIDANCE_UNAVAILABLE}
    monkeypatch.setattr(compile_queue, "MAX_WAIT_S", TIMEOUT_S)
    while not workers.sent.empty():
        workers.next_sent()[0].report()
    answers.submit(FLOOD, "later")
    assert set(sent(workers, 1)) == {"later"}


def test_a_worker_that_takes_too_long_is_replaced_and_its_guide_rejected(answers, workers):
    answers.submit(FLOOD, "slow")
    worker = sent(workers, 1)["slow"]
    worker.deadline = 0.0
    answers.submit(FLOOD, "next")  # wakes the compiler's thread
    sent(workers, 1)
    assert str(answers.next()[2]) == (
        "schema_too_complex: guide took more than 3000 ms, limit 1000 ms (max_compile_ms)"
    )
    assert not worker.is_alive


def test_a_registered_schemas_report_has_its_name(start, workers):
    reports = queue.Queue()
    compiler = start(on_report=reports.put)
    answers = Answers(compiler)
    answers.submit("", "r", name="registered")
    sent(workers, 1)["r"].report(schema_id="sha256:0", compile_ms=5_000.0)
    assert answers.next() == ("", "r", None)
    assert reports.get(timeout=TIMEOUT_S).schema_id == "r"


def test_an_evicted_registered_schema_is_still_known(start, workers, monkeypatch):
    compiler = start()
    workers_report(compiler, workers, Guide("regex", "r", "order"))
    monkeypatch.setattr(GuideCache, "get", lambda cache, kind, text: None)
    assert compiler.lookup(Guide("regex", "r", "order")).schema_id == "order"


def test_an_inline_guide_with_a_registered_schemas_text_is_that_schema(start, workers):
    compiler = start(max_adhoc_per_minute=0)
    workers_report(compiler, workers, Guide("regex", "r", "order"))
    assert compiler.lookup(Guide("regex", "r")).schema_id == "sha256:0"


def workers_report(compiler, workers, guide):
    """Register a guide that compiles slowly."""
    registration = threading.Thread(target=compiler.register, args=([guide],))
    registration.start()
    sent(workers, 1)[guide.text].report(schema_id="sha256:0", compile_ms=5_000.0)
    registration.join(TIMEOUT_S)


def test_a_wake_up_does_not_block_when_the_pipe_is_full(compiler, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", raise_blocking)
        compiler._wake_up()


def raise_blocking(*arguments):
    raise BlockingIOError
