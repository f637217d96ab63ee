"""Unpacking a request's arrays into rows."""

import numpy as np
import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.rules.row_input import unpack_rows


def texts(*values):
    return np.array([[v] for v in values], np.object_)


def test_each_row_of_a_batch_is_its_own_ask():
    asks = unpack_rows({"text_input": texts(b"a", b"b"), "max_tokens": np.array([[3], [5]], np.int32)})
    assert [(ask.text_input, ask.max_tokens) for ask in asks] == [("a", 3), ("b", 5)]


def test_words_keep_their_order_within_a_row():
    (ask,) = unpack_rows({"text_input": texts(b"a"), "stop_words": np.array([[b"x", b"y"]], np.object_)})
    assert ask.stop_words == ["x", "y"]


def test_switches_that_are_always_on_are_taken_without_effect():
    (ask,) = unpack_rows({"text_input": texts(b"a"), "return_perf_metrics": np.array([[False]])})
    assert ask.text_input == "a"


REFUSED = {
    "neither prompt": ({}, "neither text_input nor messages"),
    "both prompts": ({"text_input": texts(b"a"), "messages": texts(b"[]")}, "both text_input and messages were given"),
    "stream": ({"text_input": texts(b"a"), "stream": np.array([[True]])}, "stream is true"),
    "two beams": ({"text_input": texts(b"a"), "beam_width": np.array([[2]], np.int32)}, "beam_width is 2, only 1"),
    "no UTF-8": ({"text_input": texts(b"\xff\xfe")}, "text_input is not valid UTF-8"),
    "no UTF-8 in a word": ({"text_input": texts(b"a"), "bad_words": texts(b"\xc0")}, "bad_words is not valid UTF-8"),
    "five rows": ({"text_input": texts(*[b"a"] * 5)}, "the batch has 5 rows, allowed 1 to 4"),
    "no row": ({"text_input": np.empty((0, 1), np.object_)}, "the batch has 0 rows"),
    "a scalar": ({"text_input": np.array(b"a", np.object_)}, "the batch has 0 rows"),
    "two values": ({"text_input": np.array([[b"a", b"b"]], np.object_)}, r"shape \[1, 2\], \[1, 1\] is required"),
    "rows differ": ({"text_input": texts(b"a"), "seed": np.array([[1], [2]], np.uint64)}, r"seed has shape \[2, 1\]"),
    "an unknown name": ({"text_input": texts(b"a"), "temprature": np.array([[1.0]])}, "unknown input 'temprature'"),
}


@pytest.mark.parametrize(("inputs", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_the_wrong_form_is_refused(inputs, text):
    with pytest.raises(InvalidRequest, match=rf"^invalid_input: .*{text}"):
        unpack_rows(inputs)
