"""Conversion of TensorRT-LLM's tensors to requests, and of sequences to tensors."""

import numpy as np
import pytest

from portable_engine.sequence import GenerationRequest, Sequence
from portable_engine.tensors import RequestError, read_requests, write_response

END = 9
ARRAYS = {
    "input_ids": np.array([[1, 2, 3], [4, 0, 0]], np.int32),
    "input_lengths": np.array([3, 1], np.int32),
    "request_output_len": np.array([5, 7], np.int32),
}


def finished_sequence(tokens, prompt=(1, 2)):
    sequence = Sequence(GenerationRequest(list(prompt), 8, end_id=END, return_log_probs=True), arrival_time_ns=1)
    for number, token in enumerate(tokens):
        sequence.append(token, -0.5, number + 2)
    return sequence


def test_prompts_are_cut_to_their_input_lengths():
    requests = read_requests(ARRAYS, 100, 50)
    assert [r.prompt_token_ids for r in requests] == [[1, 2, 3], [4]]
    assert [r.max_new_tokens for r in requests] == [5, 7]


def test_word_lists_are_read_from_ids_and_end_offsets():
    words = np.array([[[7, 8, 9], [2, 3, -1]], [[0, 0, 0], [-1, -1, -1]]], np.int32)
    requests = read_requests({**ARRAYS, "stop_words_list": words}, 100, 50)
    assert [r.stop_words for r in requests] == [((7, 8), (9,)), ()]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"beam_width": np.array([2, 1])}, "beam_width is 2"),
        ({"request_output_len": np.array([5, 100])}, "exceed the model's 100"),
        ({"request_output_len": np.array([0, 5])}, "at least 1"),
        ({"input_lengths": np.array([4, 1])}, "at least 1"),
        ({"input_ids": np.array([[1, 2, 50], [4, 0, 0]])}, "input_ids has ids from 1 to 50, allowed 0 to 49"),
        ({"input_ids": np.array([[1, 2, -1], [4, 0, 0]])}, "input_ids has ids from -1"),
        ({"end_id": np.array([2, 50])}, "end_id is 50"),
        ({"bad_words_list": np.array([[[60], [1]], [[7], [1]]])}, "bad_words_list has ids from 60"),
        ({"repetition_penalty": np.array([1.0, 0.0])}, "repetition_penalty is 0"),
    ],
)
def test_an_unsupported_request_is_rejected_with_its_reason(changes, text):
    with pytest.raises(RequestError, match=text):
        read_requests({**ARRAYS, **changes}, 100, 50)


def test_end_id_is_not_part_of_the_output():
    arrays = write_response([finished_sequence([5, 6, END])], pad_id=0, includes_prompt=False, returns_log_probs=True)
    assert arrays["output_ids"].tolist() == [[[5, 6]]]
    assert (arrays["sequence_length"].tolist(), arrays["num_output_tokens"].tolist()) == ([[2]], [[2]])
    assert arrays["output_log_probs"].shape == (1, 1, 2)


def test_shorter_rows_are_padded():
    rows = [finished_sequence([5]), finished_sequence([5, 6, 7])]
    arrays = write_response(rows, pad_id=3, includes_prompt=False, returns_log_probs=False)
    assert arrays["output_ids"].tolist() == [[[5, 3, 3]], [[5, 6, 7]]]


def test_the_output_includes_the_prompt_on_request():
    arrays = write_response([finished_sequence([5, END])], pad_id=0, includes_prompt=True, returns_log_probs=False)
    assert arrays["output_ids"].tolist() == [[[1, 2, 5]]]
    assert arrays["sequence_length"].tolist() == [[3]]


def test_an_empty_completion_is_an_empty_row():
    arrays = write_response([finished_sequence([END])], pad_id=0, includes_prompt=False, returns_log_probs=False)
    assert arrays["output_ids"].shape == (1, 1, 0)
