"""Whatever the workers do, each request is answered exactly once."""

import queue
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.errors import Code, PolicyError, Unavailable
from llm_policy.guidance.compile import compile_queue
from llm_policy.guidance.compile.compile_queue import GuideCompiler
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.guide import Guide
from llm_policy.release.manifest import Guidance
from tests.unit.llm_policy.guidance.compile.fake_workers import TIMEOUT_S, FakeWorkers

EXPECTED = {None, Code.GUIDANCE_UNAVAILABLE, Code.SCHEMA_INVALID, Code.SCHEMA_TOO_COMPLEX}
TEXTS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=2, unique=True)
SUBMISSIONS = st.tuples(st.sampled_from(["ada", "bob", "cyd"]), TEXTS)
EVENTS = st.sampled_from(["compiled", "rejected", "died"])


@settings(max_examples=40, deadline=None)
@given(st.lists(SUBMISSIONS | EVENTS, max_size=25))
def test_each_request_is_answered_exactly_once(steps):
    with pytest.MonkeyPatch.context() as patch:
        workers, faults, answers = FakeWorkers(), [], queue.Queue()
        patch.setattr(compile_queue, "SandboxedWorker", workers)
        patch.setattr(compile_queue, "MAX_WAITING_GUIDES", 3)
        patch.setattr(compile_queue, "MAX_WAITING_REQUESTS", 5)
        compiler = GuideCompiler(Guidance(), Path("unused"), GuideCache(None, "test"), faults.append)
        submitted = 0
        for step in steps:
            if isinstance(step, str):
                end_guide(workers, step)
            else:
                submit(compiler, answers, submitted, *step)
                submitted += 1
        received = []
        while len(received) < submitted:
            end_guide(workers, "compiled")
            received += drain(answers)
        compiler.close()
    assert Counter(number for number, _ in received) == Counter(range(submitted))
    assert {error.code if error else None for _, error in received} <= EXPECTED
    assert drain(answers) == []
    assert faults == []


def submit(compiler, answers, number, tenant, texts):
    def call_back(error: PolicyError | None):
        answers.put((number, error))

    try:
        compiler.submit([Guide("regex", text) for text in texts], call_back, tenant)
    except Unavailable as error:
        call_back(error)


def end_guide(workers, event):
    """Let the worker with the oldest guide report or die, if one comes soon."""
    try:
        worker, _ = workers.sent.get(timeout=0.01)
    except queue.Empty:
        return
    if event == "died":
        worker.die()
    else:
        worker.report(code="schema_invalid" if event == "rejected" else "")


def drain(answers):
    found = []
    while not answers.empty():
        found.append(answers.get(timeout=TIMEOUT_S))
    return found
