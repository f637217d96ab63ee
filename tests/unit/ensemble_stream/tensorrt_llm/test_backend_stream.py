"""What one decoupled request to TensorRT-LLM's backend has sent so far, as the protocol's messages."""

import time

import numpy as np
import pytest

from engine_process.messages import Generate, read_ids, read_log_probs, write_ids
from ensemble_stream.tensorrt_llm.backend_stream import BackendStream

END_ID = 2
CLOCKS = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


def new_stream(**changes):
    return BackendStream(Generate(7, write_ids([5, 6]), **{"max_tokens": 4, "end_id": END_ID, **changes}))


def response(*ids, log_probs=None, clocks=None, padding=()):
    outputs = {
        "output_ids": np.array([[[*ids, *padding]]], np.int32).reshape(1, 1, -1),
        "sequence_length": np.array([[len(ids)]], np.int32),
    }
    if log_probs is not None:
        outputs["output_log_probs"] = np.array([[log_probs]], np.float32)
    for name, clock in zip(CLOCKS, clocks or (), strict=False):
        outputs[name] = np.array([[clock]], np.int64)
    return outputs


def test_each_response_has_the_new_tokens_alone_and_padding_is_none():
    stream = new_stream()
    first, second = stream.add(response(10)), stream.add(response(11, 12, padding=(-1, -1)))
    assert (first.id, read_ids(first.ids), read_ids(second.ids)) == (7, [10], [11, 12])
    assert stream.num_tokens == 3


def test_the_end_token_is_no_part_of_the_answer():
    stream = new_stream(max_tokens=2)
    assert read_ids(stream.add(response(10, END_ID)).ids) == [10]
    end = stream.finish()
    assert (end.reason, end.num_output_tokens) == ("stop", 1)


@pytest.mark.parametrize(("ids", "reason"), [((10, 11, 12, 13), "length"), ((10, 11), "stop")])
def test_an_answer_shorter_than_its_limit_was_stopped(ids, reason):
    stream = new_stream()
    stream.add(response(*ids))
    stream.add(response())
    assert stream.finish().reason == reason


@pytest.mark.parametrize(
    "of_responses",
    [
        pytest.param([[-1.0], [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]], id="of all tokens so far"),
        pytest.param([[-1.0], [-2.0, -3.0], []], id="of the new tokens"),
    ],
)
def test_each_token_gets_its_log_probability_once(of_responses):
    stream = new_stream(log_probs=True)
    tokens = [
        stream.add(response(*ids, log_probs=log_probs))
        for ids, log_probs in zip(((10,), (11, 12), ()), of_responses, strict=True)
    ]
    assert [read_log_probs(each.log_probs) for each in tokens] == [[-1.0], [-2.0, -3.0], []]
    assert stream.finish().cum_log_prob == -6.0


def test_log_probabilities_that_nobody_asked_for_are_dropped():
    assert new_stream().add(response(10, log_probs=[-1.0])).log_probs == b""


def test_the_clocks_are_those_of_the_backend_whichever_response_has_them():
    stream = new_stream()
    stream.add(response(10, clocks=(100, 200, 0, 0)))
    stream.add(response(11, clocks=(100, 200, 300, 400)))
    end = stream.finish()
    assert (end.arrival_ns, end.first_scheduled_ns, end.first_token_ns, end.last_token_ns) == (100, 200, 300, 400)
    assert end.num_input_tokens == 2


def test_without_the_backends_clocks_a_cancelled_stream_has_its_own_and_no_queue_delay():
    before = time.monotonic_ns()
    stream = new_stream()
    stream.add(response(10))
    end = stream.end("cancelled")
    assert before <= end.arrival_ns == end.first_scheduled_ns <= end.first_token_ns == end.last_token_ns
    assert (end.reason, end.num_output_tokens) == ("cancelled", 1)


def test_at_the_deadline_a_stream_has_waited_until_now():
    stream = new_stream()
    end = stream.end("deadline")
    assert end.arrival_ns <= end.first_scheduled_ns == end.first_token_ns == end.last_token_ns
    assert end.last_token_ns <= time.monotonic_ns()


def test_a_stream_without_a_response_is_a_failure():
    end = new_stream().finish()
    assert (end.reason, end.code) == ("error", "internal")
