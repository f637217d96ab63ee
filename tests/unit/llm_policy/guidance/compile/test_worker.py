"""The worker takes the first backend and plan that the engine can bear."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from llm_policy.guidance.backends.guide_backend import BackendLimit, Bitmask, PlannedGuide
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.compile import worker as module
from llm_policy.guidance.compile.probe import SlowMask
from llm_policy.guidance.compile.sandbox import SandboxedWorker
from llm_policy.guidance.compile.worker import GuideWorker
from llm_policy.guidance.limits import invalid, too_complex
from llm_policy.release.guide_limits import GuideLimits
from llm_policy.release.manifest import Guidance
from llmstack.paths import DEFAULT_RELEASE_DIR

VOCABULARY = Vocabulary(["a", "</s>"], [1], "")
GUIDANCE = Guidance(max_compile_ms=100)


class FakeMatcher:
    def fill_bitmask(self, bitmask: Bitmask) -> None:
        bitmask[:] = 2  # the stop token

    def accept_token(self, token_id: int) -> bool:
        return True


class FakeCompiled:
    def __init__(self, text: str) -> None:
        self.text = text

    def matcher(self) -> FakeMatcher:
        return FakeMatcher()


class FakeBackend:
    """Plans the given texts; `slow …` has slow masks, `bad …` does not compile."""

    vocab_size = 2

    def __init__(self, name: str, texts: list[str]) -> None:
        self.name = name
        self._texts = texts
        self.compiled: list[str] = []

    def plans(self, kind: str, text: str, limits: GuideLimits, *, is_registered: bool) -> Iterator[PlannedGuide]:
        for planned in self._texts:
            if planned == "large":
                raise BackendLimit(too_complex("nesting depth of the grammar", 2, 1))
            if planned == "invalid":
                raise invalid("no value satisfies the schema")
            yield PlannedGuide("ebnf_grammar", planned, text)

    def compile(self, engine_text: str) -> FakeCompiled:
        self.compiled.append(engine_text)
        if engine_text.startswith("bad"):
            raise invalid("the grammar compiler rejects this guide")
        return FakeCompiled(engine_text)


@pytest.fixture
def make_worker(monkeypatch):
    def make(**plans: list[str]) -> GuideWorker:
        backends = {name: FakeBackend(name, texts) for name, texts in plans.items()}
        monkeypatch.setattr(module, "create_backend", lambda name, vocabulary: backends[name])
        worker = GuideWorker(VOCABULARY, GUIDANCE, list(plans))

        def walk(compiled: FakeCompiled, num_mask_words: int) -> float:
            if compiled.text.startswith("slow"):
                raise SlowMask(76.54)
            return 0.5

        monkeypatch.setattr(worker._probe, "walk", walk)
        return worker

    return make


def test_the_first_plan_in_bounds_is_taken(make_worker):
    report = make_worker(llguidance=["exact", "cheap"], xgrammar=["other"]).report("regex", "a")
    assert (report.code, report.backend, report.engine_text, report.mask_ms) == ("", "llguidance", "exact", 0.5)


def test_a_plan_with_slow_masks_is_followed_by_a_cheaper_one(make_worker):
    report = make_worker(xgrammar=["slow", "cheap"]).report("regex", "a")
    assert (report.code, report.engine_text) == ("", "cheap")


@pytest.mark.parametrize("plans", [["slow"], ["bad"], ["large"]])
def test_the_next_backend_is_tried_if_one_cannot_bear_the_guide(make_worker, plans):
    report = make_worker(llguidance=plans, xgrammar=["good"]).report("regex", "a")
    assert (report.code, report.backend) == ("", "xgrammar")


def test_an_invalid_guide_is_rejected_without_another_backend(make_worker):
    report = make_worker(llguidance=["invalid"], xgrammar=["good"]).report("regex", "a")
    assert (report.code, report.detail) == ("schema_invalid", "no value satisfies the schema")


def test_a_guide_that_no_plan_makes_cheap_is_rejected_with_the_time_and_the_limit(make_worker):
    report = make_worker(llguidance=["slow 1"], xgrammar=["slow 2"]).report("regex", "a")
    expected = "guide needs 76.5 ms for a token mask, limit 5 ms (max_mask_ms)"
    assert (report.code, report.detail) == ("schema_too_complex", expected)


def test_a_slow_compile_rejects_a_clients_guide_but_not_a_registered_one(make_worker, monkeypatch):
    clock = iter([0.0, 0.2, 1.0, 1.2])
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    worker = make_worker(xgrammar=["good"])
    report = worker.report("json_schema", "{}")
    expected = "guide took 200 ms to compile, limit 100 ms (max_compile_ms)"
    assert (report.code, report.detail) == ("schema_too_complex", expected)
    registered = worker.report("json_schema", "{}", is_registered=True)
    assert (registered.code, round(registered.compile_ms)) == ("", 200)


needs_backends = pytest.mark.skipif(
    find_spec("llguidance") is None or find_spec("xgrammar") is None, reason="a guide backend is not installed"
)


@needs_backends
def test_a_real_worker_states_backend_and_worst_mask():
    vocabulary = Vocabulary.read(DEFAULT_RELEASE_DIR / "tokenizer_info.json")
    report = GuideWorker(vocabulary, Guidance(), ["llguidance"]).report("json_schema", '{"type":"string"}')
    assert (report.code, report.backend, report.engine_type) == ("", "llguidance", "lark_grammar")
    assert 0 < report.mask_ms <= Guidance().max_mask_ms


def test_a_backend_is_loaded_when_a_guide_first_needs_it(make_worker):
    loaded: list[str] = []
    worker = make_worker(llguidance=["exact"], xgrammar=["other"])

    def load(name: str, vocabulary: Vocabulary) -> FakeBackend:
        loaded.append(name)
        return FakeBackend(name, ["other"])

    worker._load = load
    worker.report("regex", "a")
    assert loaded == []
    worker._loaded["llguidance"]._texts = ["slow"]
    assert [worker.report("regex", "a").backend for _ in range(2)] == ["xgrammar"] * 2
    assert loaded == ["xgrammar"]


@needs_backends
def test_the_time_in_which_a_sandboxed_worker_loads_a_backend_does_not_count(monkeypatch):
    monkeypatch.setenv("LLMSTACK_GUIDE_BACKENDS", "llguidance,xgrammar")
    sandboxed = SandboxedWorker(DEFAULT_RELEASE_DIR / "tokenizer_info.json", Guidance(max_mask_ms=1e-6))
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sandboxed, selectors.EVENT_READ)
            deadlines = []

            def receive() -> Any:
                while True:
                    assert selector.select(60)
                    if (message := sandboxed.receive()) is not None:
                        return message
                    deadlines.append(sandboxed.deadline)

            assert receive()["ready"]
            sandboxed.send("regex", "a", 5)
            sent = sandboxed.deadline
            code, detail, *_ = receive()
    finally:
        sandboxed.kill()
    assert (code, detail.partition(" needs")[0]) == ("schema_too_complex", "guide")
    assert max(deadlines) > sent + 60  # while it loads XGrammar, which is tried after llguidance
    assert sandboxed.deadline > sent
