"""What goes wrong with one request stays with it."""

import queue
from concurrent.futures import Future

import pytest

from portable_engine.batcher import InFlightBatcher
from portable_engine.engine_loop import EngineLoop
from portable_engine.grammar import GuideError
from portable_engine.sequence import GenerationRequest, SamplingParams
from tests.unit.portable_engine.tiny_qwen3 import tiny_model


class DeadEnd:
    """A matcher that allows nothing."""

    def accept_token(self, token_id):
        return False

    def is_terminated(self):
        return False


class Grammars:
    """Every guide is a dead end, except the one that does not compile."""

    def compile(self, guide_type, guide):
        future = Future()
        if guide == "broken":
            future.set_exception(GuideError("the regex guide does not compile"))
        else:
            future.set_result(None)
        return future

    def matcher(self, grammar, end_id):
        return DeadEnd()


def mask(logits, matchers):
    for row, matcher in enumerate(matchers):
        if matcher is not None:
            logits[row] = -float("inf")


class Client:
    """Sends one job and waits for what comes of it."""

    def __init__(self, loop, *requests, is_cancelled=lambda: False, on_done=None):
        self._answers = queue.Queue()
        loop.submit(
            list(requests),
            on_done or (lambda sequences: self._answers.put([s.completion_token_ids for s in sequences])),
            lambda failure: self._answers.put(str(failure)),
            is_cancelled,
            lambda: self._answers.put("cancelled"),
        )

    def answer(self):
        return self._answers.get(timeout=30)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def loop(lines):
    loop = EngineLoop(InFlightBatcher(tiny_model(), 4, mask), Grammars(), lines.append)
    yield loop
    loop.close()


FREE = GenerationRequest([5, 9], 30)
DEAD = GenerationRequest([5], 8, guide_type="regex", guide="[ab]")
DRAWN = SamplingParams(temperature=0.5, top_k=0, top_p=0.9)


@pytest.mark.parametrize("sampling", [SamplingParams(), DRAWN])
def test_a_request_that_no_token_can_follow_is_refused_and_its_neighbour_decodes_on(loop, sampling):
    alone = Client(loop, FREE).answer()
    neighbour = Client(loop, FREE)
    dead = Client(loop, GenerationRequest([5], 8, sampling=sampling, guide_type="regex", guide="[ab]"))
    assert dead.answer().startswith("invalid_input: the guide, bad_words and min_tokens")
    assert neighbour.answer() == alone


def test_a_row_that_fails_fails_its_request_at_once(loop):
    assert Client(loop, GenerationRequest([5], 2_000), DEAD).answer().startswith("invalid_input")
    assert len(Client(loop, FREE).answer()[0]) == 30


def test_a_guide_that_does_not_compile_is_refused_as_the_policy_refuses_one(loop):
    broken = GenerationRequest([5], 8, guide_type="regex", guide="broken")
    assert Client(loop, broken).answer() == "schema_invalid: the regex guide does not compile"


def test_an_answer_that_fails_becomes_an_error_so_that_the_client_does_not_wait(loop, lines):
    assert Client(loop, FREE, on_done=lambda sequences: 1 / 0).answer() == "internal: the answer could not be written"
    assert lines == ["answer failed: ZeroDivisionError"]


def test_a_client_that_cannot_be_asked_whether_it_cancelled_does_not_end_the_decoding(loop, lines):
    asked = GenerationRequest([5], 400)
    assert len(Client(loop, asked, is_cancelled=lambda: 1 / 0).answer()[0]) == 400
    assert len(Client(loop, FREE).answer()[0]) == 30
    assert lines == ["cancellation not known: ZeroDivisionError"]


def test_a_cancelled_request_is_answered_as_such(loop):
    assert Client(loop, GenerationRequest([5], 2_000), is_cancelled=lambda: True).answer() == "cancelled"
