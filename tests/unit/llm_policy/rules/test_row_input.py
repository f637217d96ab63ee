"""Unpacking a request's arrays into rows."""

import numpy as np
import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.rules.row_input import RowInput, unpack_rows


def texts(*values):
    return np.array([[v] for v in values], np.object_)


def test_each_row_of_a_batch_becomes_a_row_input():
    row_inputs = unpack_rows({"text_input": texts(b"a", b"b"), "max_tokens": np.array([[3], [5]], np.int32)})
    assert [(row_input.text_input, row_input.max_tokens) for row_input in row_inputs] == [("a", 3), ("b", 5)]


def test_words_keep_their_order_within_a_row():
    (row_input,) = unpack_rows({"text_input": texts(b"a"), "stop_words": np.array([[b"x", b"y"]], np.object_)})
    assert row_input.stop_words == ["x", "y"]


def test_inputs_for_always_on_outputs_are_accepted_without_effect():
    (row_input,) = unpack_rows({"text_input": texts(b"a"), "return_perf_metrics": np.array([[False]])})
    assert row_input.text_input == "a"


def test_every_input_reaches_its_field():
    inputs = {
        "text_input": texts(b"a"),
        "task": texts(b"judge"),
        "schema_id": texts(b"s"),
        "guided_decoding_guide_type": texts(b"regex"),
        "guided_decoding_guide": texts(b"[0-9]"),
        "max_tokens": np.array([[3]], np.int32),
        "end_id": np.array([[4]], np.int32),
        "pad_id": np.array([[5]], np.int32),
        "stop_words": np.array([[b"x"]], np.object_),
        "bad_words": np.array([[b"y", b"z"]], np.object_),
        "return_log_probs": np.array([[True]]),
        "exclude_input_in_output": np.array([[False]]),
        "temperature": np.array([[0.5]]),
        "top_p": np.array([[0.25]]),
        "top_k": np.array([[6]], np.int32),
        "min_tokens": np.array([[7]], np.int32),
        "seed": np.array([[8]], np.uint64),
        "repetition_penalty": np.array([[1.5]]),
        "presence_penalty": np.array([[0.75]]),
        "frequency_penalty": np.array([[-0.5]]),
    }
    assert unpack_rows(inputs) == [
        RowInput(
            text_input="a",
            task="judge",
            schema_id="s",
            guide_type="regex",
            guide="[0-9]",
            max_tokens=3,
            end_id=4,
            pad_id=5,
            stop_words=["x"],
            bad_words=["y", "z"],
            return_log_probs=True,
            exclude_input_in_output=False,
            sampling={
                "temperature": 0.5,
                "top_p": 0.25,
                "top_k": 6,
                "min_tokens": 7,
                "seed": 8,
                "repetition_penalty": 1.5,
                "presence_penalty": 0.75,
                "frequency_penalty": -0.5,
            },
        )
    ]


def test_messages_stay_bytes():
    assert unpack_rows({"messages": texts(b"\xff")}) == [RowInput(messages=b"\xff")]


def test_a_text_that_is_already_decoded_is_accepted():
    assert unpack_rows({"text_input": texts("\u00e9")}) == [RowInput(text_input="\u00e9")]


@pytest.mark.parametrize("name", ["return_log_probs", "exclude_input_in_output"])
@pytest.mark.parametrize("value", [True, False])
def test_a_switch_takes_the_clients_value(name, value):
    (row_input,) = unpack_rows({"text_input": texts(b"a"), name: np.array([[value]])})
    assert getattr(row_input, name) is value


@pytest.mark.parametrize("value", [False, True])
def test_the_stream_switch_is_read_and_only_a_model_decides_about_it(value):
    assert unpack_rows({"text_input": texts(b"a"), "stream": np.array([[value]])})[0].stream is value


def test_one_beam_is_accepted_without_effect():
    inputs = {"text_input": texts(b"a"), "beam_width": np.array([[1]], np.int32)}
    assert unpack_rows(inputs) == [RowInput(text_input="a")]


def test_a_batch_of_four_rows_is_accepted():
    assert len(unpack_rows({"text_input": texts(*[b"a"] * 4)})) == 4


TEXT = {"text_input": texts(b"a")}
MALFORMED = {
    "neither prompt": ({}, "neither text_input nor messages was given, exactly one is required"),
    "both prompts": (
        {**TEXT, "messages": texts(b"[]")},
        "both text_input and messages were given, exactly one is required",
    ),
    "no beam": ({**TEXT, "beam_width": np.array([[0]], np.int32)}, "beam_width is 0, only 1 is allowed"),
    "two beams": ({**TEXT, "beam_width": np.array([[2]], np.int32)}, "beam_width is 2, only 1 is allowed"),
    "not UTF-8": ({"text_input": texts(b"\xff\xfe")}, "text_input is not valid UTF-8"),
    "not UTF-8 in a task": ({**TEXT, "task": texts(b"\xff")}, "task is not valid UTF-8"),
    "not UTF-8 in a guide": (
        {**TEXT, "guided_decoding_guide": texts(b"\xff")},
        "guided_decoding_guide is not valid UTF-8",
    ),
    "not UTF-8 in a word": ({**TEXT, "bad_words": texts(b"\xc0")}, "bad_words is not valid UTF-8"),
    "five rows": ({"text_input": texts(*[b"a"] * 5)}, "the batch has 5 rows, allowed 1 to 4"),
    "no row": ({"text_input": np.empty((0, 1), np.object_)}, "the batch has 0 rows, allowed 1 to 4"),
    "a scalar": ({"text_input": np.array(b"a", np.object_)}, "the batch has 0 rows, allowed 1 to 4"),
    "two values": (
        {"text_input": np.array([[b"a", b"b"]], np.object_)},
        "text_input has shape [1, 2], [1, 1] is required",
    ),
    "words without rows": (
        {**TEXT, "stop_words": np.array([b"x"], np.object_)},
        "stop_words has shape [1], [1, n] is required",
    ),
    "rows differ": (
        {**TEXT, "seed": np.array([[1], [2]], np.uint64)},
        "seed has shape [2, 1], [1, 1] is required",
    ),
    "an unknown name": ({**TEXT, "temprature": np.array([[1.0]])}, "unknown input 'temprature'"),
    "an unknown name of 65 characters": ({**TEXT, "n" * 65: np.array([[1.0]])}, f"unknown input '{'n' * 64}'"),
}


@pytest.mark.parametrize(("inputs", "detail"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_inputs_are_rejected(inputs, detail):
    with pytest.raises(InvalidRequest) as caught:
        unpack_rows(inputs)
    assert str(caught.value) == f"invalid_input: {detail}"
