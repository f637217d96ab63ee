"""A failing request gets an error, and the others are not affected."""

import queue
from concurrent.futures import Future

import pytest

from portable_engine.batcher import InFlightBatcher
from portable_engine.engine_loop import EngineLoop
from portable_engine.failure import masks_too_slow
from portable_engine.guide_backend import GuideError
from portable_engine.sequence import GenerationRequest, SamplingParams
from tests.unit.portable_engine.tiny_qwen3 import mask_nothing, tiny_model


class NoAllowedToken:
    """A matcher that allows nothing, maybe because it failed."""

    def __init__(self, failure=None):
        self.failure = failure

    def accept_token(self, token_id):
        return False

    def is_terminated(self):
        return False


class Grammars:
    """The guide `broken` does not compile, `slow` loses its place, and every other guide allows no token."""

    def compile(self, guide_type, guide):
        future = Future()
        if guide == "broken":
            future.set_exception(GuideError("the regex guide does not compile"))
        else:
            future.set_result(guide)
        return future

    def matcher(self, grammar, end_id):
        return NoAllowedToken(masks_too_slow(20.0, 5.0) if grammar == "slow" else None)


def mask_guided_rows(logits, matchers):
    for row, matcher in enumerate(matchers):
        if matcher is not None:
            logits[row] = -float("inf")


class Client:
    """Submits one request and records its response: the completion, or an error's text."""

    def __init__(self, loop, request, **arguments):
        self.responses = queue.Queue()
        self.job = loop.submit(request, self, **arguments)

    def on_step(self, sequence):
        if sequence.finish_reason is not None:
            self.responses.put(list(sequence.completion_token_ids))

    def on_failure(self, failure):
        self.responses.put(str(failure))

    def response(self):
        return self.responses.get(timeout=30)


@pytest.fixture
def log_lines():
    return []


@pytest.fixture
def loop(log_lines):
    loop = EngineLoop(InFlightBatcher(tiny_model(), 4, mask_guided_rows), Grammars(), log_lines.append)
    yield loop
    loop.close()


UNGUIDED = GenerationRequest([5, 9], 30)
SAMPLED = SamplingParams(temperature=0.5, top_k=0, top_p=0.9)


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED])
def test_a_request_without_an_allowed_token_fails_and_its_neighbour_continues(loop, sampling):
    alone = Client(loop, UNGUIDED).response()
    neighbour = Client(loop, UNGUIDED)
    failing = Client(loop, GenerationRequest([5], 8, sampling=sampling, guide_type="regex", guide="[ab]"))
    assert failing.response().startswith("invalid_input: the guide, bad_words and min_tokens")
    assert neighbour.response() == alone


def test_a_guide_that_does_not_compile_fails_with_the_policys_error_code(loop):
    broken = GenerationRequest([5], 8, guide_type="regex", guide="broken")
    assert Client(loop, broken).response() == "schema_invalid: the regex guide does not compile"


def test_a_guide_that_loses_its_place_fails_its_request_alone(loop):
    alone = Client(loop, UNGUIDED).response()
    slow = Client(loop, GenerationRequest([5], 8, guide_type="regex", guide="slow"))
    neighbour = Client(loop, UNGUIDED)
    assert slow.response() == ("schema_too_complex: processor time of the guide's token masks in ms is 20.0, limit 5")
    assert neighbour.response() == alone


def test_a_cancelled_request_ends_and_frees_its_slot(loop):
    cancelled = [Client(loop, GenerationRequest([5], 2_000)) for _ in range(4)]
    for client in cancelled:
        loop.cancel(client.job)
    assert len(Client(loop, UNGUIDED).response()) == 30
    assert all(client.responses.empty() for client in cancelled)


def test_a_request_is_reported_step_by_step(loop):
    class Recorder(Client):
        def on_step(self, sequence):
            steps.append(len(sequence.completion_token_ids))
            super().on_step(sequence)

    steps = []
    Recorder(loop, UNGUIDED).response()
    assert steps == sorted(steps)
    assert len(set(steps)) == 30


class FailingBatcher(InFlightBatcher):
    """Fails at every step."""

    def step(self):
        raise RuntimeError("out of memory")


def test_a_failed_step_answers_each_job_once_and_the_loop_continues():
    log_lines = []
    loop = EngineLoop(FailingBatcher(tiny_model(), 4, mask_nothing), grammars=None, log=log_lines.append)
    clients = [Client(loop, GenerationRequest([5], 4)) for _ in range(2)]
    assert [client.response() for client in clients] == ["internal: the engine failed during decoding"] * 2
    loop.close()
    assert all(client.responses.empty() for client in clients)
    assert all("decode step failed: RuntimeError at " in line and "out of memory" in line for line in log_lines)


def test_another_tenants_request_is_answered_before_long_ones_that_fill_every_slot(loop):
    long = [Client(loop, GenerationRequest([5], 1_900)) for _ in range(6)]
    assert len(Client(loop, GenerationRequest([6], 3), tenant="b").response()) == 3
    assert all(client.responses.empty() for client in long)
