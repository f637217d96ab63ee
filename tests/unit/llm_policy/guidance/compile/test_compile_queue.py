"""The compile queue, with real workers."""

import queue
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llm_policy.errors import Code, InvalidRequest, PolicyError, Unavailable
from llm_policy.guidance.compile import compile_queue
from llm_policy.guidance.compile.compile_queue import NUM_WORKERS, GuideCompiler
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.compile.sandbox import SandboxedWorker
from llm_policy.guidance.guide import Guide
from llm_policy.release.manifest import Guidance
from llmstack.paths import DEFAULT_RELEASE_DIR

pytest.importorskip("xgrammar")
INFO = DEFAULT_RELEASE_DIR / "tokenizer_info.json"


def started_compiler(guidance, *arguments):
    """A compiler whose workers have started: only a registered guide may wait for that."""
    compiler = GuideCompiler(guidance, INFO, GuideCache(None, "test"), *arguments)
    compiler.register([Guide("regex", "ready", "ready")])
    return compiler


@pytest.fixture(scope="module")
def compiler():
    compiler = started_compiler(Guidance(max_adhoc_per_minute=1_000))
    yield compiler
    compiler.close()


@pytest.fixture
def one_worker(monkeypatch):
    """Compilers of this test have one worker: each one takes seconds to start."""
    monkeypatch.setattr(compile_queue, "NUM_WORKERS", 1)


def compile_guides(compiler, *guides, timeout_s=30):
    """The error that the callback receives, or None."""
    errors = queue.Queue()
    compiler.submit(list(guides), errors.put)
    return errors.get(timeout=timeout_s)


def test_a_valid_guide_is_found_after_its_compile(compiler):
    guide = Guide("json_schema", '{"type":"integer","minimum":3,"maximum":9}')
    assert compiler.lookup(guide) is None
    assert compile_guides(compiler, guide) is None
    engine_guide = compiler.lookup(guide)
    assert engine_guide.engine_type == "ebnf_grammar"
    assert engine_guide.schema_id.startswith("sha256:")


def test_a_registered_schema_keeps_its_name_as_id(compiler):
    compiler.register([Guide("json_schema", '{"type":"boolean"}', "flag")])
    assert compiler.lookup(Guide("json_schema", '{"type":"boolean"}', "flag")).schema_id == "flag"


def test_the_error_of_an_invalid_registered_schema_names_it(compiler):
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: registered schema bad: "):
        compiler.register([Guide("json_schema", '{"type":"strin"}', "bad")])


def test_a_registered_schema_in_the_cache_file_needs_no_worker(tmp_path):
    cache = GuideCache(tmp_path / "guides.db", "test")
    cache.put("regex", "a", GuideReport(engine_type="regex", engine_text="a"))
    compiler = GuideCompiler(Guidance(), Path("/nowhere"), GuideCache(tmp_path / "guides.db", "test"))
    compiler.register([Guide("regex", "a", "known")])
    assert compiler.lookup(Guide("regex", "a", "known")).schema_id == "known"
    compiler.close()


def test_a_rejected_guide_is_rejected_from_the_cache_afterwards(compiler):
    guide = Guide("regex", "(")
    error = compile_guides(compiler, guide)
    assert error.code is Code.SCHEMA_INVALID
    with pytest.raises(InvalidRequest, match=r"^schema_invalid"):
        compiler.lookup(guide)


def test_one_invalid_guide_rejects_the_whole_submission(compiler):
    assert isinstance(compile_guides(compiler, Guide("regex", "a"), Guide("regex", "[")), PolicyError)


def test_every_request_that_waits_for_a_guide_is_answered(compiler):
    guide, errors = Guide("regex", "[a-z]{1,9}x"), queue.Queue()
    for _ in range(20):
        compiler.submit([guide], errors.put)
    assert [errors.get(timeout=30) for _ in range(20)] == [None] * 20


def worker_processes() -> list[psutil.Process]:
    """The live workers; a killed one may be a zombie for a while."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "llm_policy.guidance.compile.worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_killed_worker_is_replaced(compiler):
    killed = worker_processes()
    assert len(killed) == NUM_WORKERS
    for worker in killed:
        worker.kill()
    compiler.register([Guide("regex", "after[0-9]", "after")])
    assert {worker.pid for worker in worker_processes()} - {worker.pid for worker in killed}


@pytest.mark.slow
def test_the_number_of_new_guides_per_minute_is_limited(one_worker):
    compiler = started_compiler(Guidance(max_adhoc_per_minute=1))
    assert compile_guides(compiler, Guide("regex", "a")) is None
    error = compile_guides(compiler, Guide("regex", "b"))
    assert isinstance(error, Unavailable)
    assert "limit 1 (max_adhoc_per_minute)" in str(error)
    compiler.close()


@pytest.mark.slow
def test_unenforced_keywords_are_rejected_if_the_manifest_says_so(one_worker):
    guidance = Guidance(unenforced_keywords="reject")
    compiler = started_compiler(guidance)
    error = compile_guides(
        compiler, Guide("json_schema", '{"type":"array","items":{"type":"number"},"uniqueItems":true}')
    )
    assert str(error) == "schema_invalid: 1 keywords can't be enforced, limit 0: uniqueItems"
    compiler.close()


def test_a_failing_callback_is_reported_and_does_not_affect_other_requests(one_worker):
    faults = queue.Queue()
    compiler = started_compiler(Guidance(), faults.put)
    compiler.submit([Guide("regex", "a")], lambda error: 1 / 0)
    assert compile_guides(compiler, Guide("regex", "b")) is None
    assert isinstance(faults.get(timeout=10), ZeroDivisionError)
    compiler.close()


def test_requests_for_the_same_new_guide_share_one_compile(compiler, monkeypatch):
    sent, errors = [], queue.Queue()
    guide = Guide("regex", "once[0-9]{1,3}")
    send = SandboxedWorker.send

    def counted_send(self, *guide, **options):
        sent.append(guide)
        return send(self, *guide, **options)

    monkeypatch.setattr(SandboxedWorker, "send", counted_send)
    for _ in range(10):
        compiler.submit([guide], errors.put)
    assert [errors.get(timeout=30) for _ in range(10)] == [None] * 10
    assert len(sent) == 1


def test_a_flood_of_slow_guides_delays_no_other_tenants_first_guide(compiler):
    flood, first = [Guide("regex", f"(a*)*b{number}") for number in range(64)], Guide("regex", "first[0-9]")
    answers = queue.Queue()
    for guide in flood:
        compiler.submit([guide], lambda error: answers.put(("flood", error)), "flood")
    compiler.submit([first], lambda error: answers.put(("first", error)), "newcomer")
    order = []
    while ("first", None) not in order:
        order.append(answers.get(timeout=30))
    assert len(order) < len(flood)


# The last test: it ends the shared compiler.
def test_closing_the_compiler_stops_all_workers(compiler):
    assert compile_guides(compiler, Guide("regex", "last[0-9]")) is None
    assert worker_processes()
    compiler.close()
    assert worker_processes() == []
