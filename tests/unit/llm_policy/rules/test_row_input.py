"""Unpacking a request's arrays into rows."""

import numpy as np
import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.rules.row_input import unpack_rows


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


MALFORMED = {
    "neither prompt": ({}, "neither text_input nor messages"),
    "both prompts": ({"text_input": texts(b"a"), "messages": texts(b"[]")}, "both text_input and messages were given"),
    "stream": ({"text_input": texts(b"a"), "stream": np.array([[True]])}, "stream is true"),
    "two beams": ({"text_input": texts(b"a"), "beam_width": np.array([[2]], np.int32)}, "beam_width is 2, only 1"),
    "not UTF-8": ({"text_input": texts(b"\xff\xfe")}, "text_input is not valid UTF-8"),
    "not UTF-8 in a word": ({"text_input": texts(b"a"), "bad_words": texts(b"\xc0")}, "bad_words is not valid UTF-8"),
    "five rows": ({"text_input": texts(*[b"a"] * 5)}, "the batch has 5 rows, allowed 1 to 4"),
    "no row": ({"text_input": np.empty((0, 1), np.object_)}, "the batch has 0 rows"),
    "a scalar": ({"text_input": np.array(b"a", np.object_)}, "the batch has 0 rows"),
    "two values": ({"text_input": np.array([[b"a", b"b"]], np.object_)}, r"shape \[1, 2\], \[1, 1\] is required"),
    "rows differ": ({"text_input": texts(b"a"), "seed": np.array([[1], [2]], np.uint64)}, r"seed has shape \[2, 1\]"),
    "an unknown name": ({"text_input": texts(b"a"), "temprature": np.array([[1.0]])}, "unknown input 'temprature'"),
}


@pytest.mark.parametrize(("inputs", "text"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_inputs_are_rejected(inputs, text):
    with pytest.raises(InvalidRequest, match=rf"^invalid_input: .*{text}"):
        unpack_rows(inputs)
