"""Conversion of TensorRT-LLM's tensors to requests, and of completions to tensors."""

import numpy as np
import pytest

from engine_process.messages import Capabilities, End, Generate, Guide, write_ids, write_log_probs
from engine_process.triton.tensors import (
    CompletedRow,
    RequestError,
    read_ledger_ids,
    read_requests,
    read_tenant,
    write_response,
)

CAPABILITIES = Capabilities(4, 100, 50, ["regex", "lark_grammar"])
ARRAYS = {
    "input_ids": np.array([[1, 2, 3], [4, 0, 0]], np.int32),
    "input_lengths": np.array([3, 1], np.int32),
    "request_output_len": np.array([5, 7], np.int32),
}


PROMPT = Generate(1, write_ids([1, 2]), 8)
WITH_LOG_PROBS = Generate(1, write_ids([1, 2]), 8, log_probs=True)


def completed(*tokens):
    end = End(1, "length", "", "", 2, len(tokens), 1, 2, 3, 4, -0.5 * len(tokens))
    return CompletedRow(write_ids(tokens), write_log_probs([-0.5] * len(tokens)), end)


def test_prompts_are_cut_to_their_input_lengths():
    requests = read_requests(ARRAYS, CAPABILITIES)
    assert [r.prompt_token_ids for r in requests] == [[1, 2, 3], [4]]
    assert [r.max_tokens for r in requests] == [5, 7]


def test_word_lists_are_read_from_ids_and_end_offsets():
    words = np.array([[[7, 8, 9], [2, 3, -1]], [[0, 0, 0], [-1, -1, -1]]], np.int32)
    requests = read_requests({**ARRAYS, "stop_words_list": words}, CAPABILITIES)
    assert [r.stop_sequences for r in requests] == [[[7, 8], [9]], []]


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
        read_requests({**ARRAYS, **changes}, CAPABILITIES)


def test_an_engine_without_limits_takes_any_number_of_tokens_and_any_id():
    (request,) = read_requests(
        {
            "input_ids": np.array([[900_000]], np.int32),
            "input_lengths": np.array([1]),
            "request_output_len": np.array([900_000]),
        },
        Capabilities(4, 0, 0, []),
    )
    assert (request.prompt_token_ids, request.max_tokens) == ([900_000], 900_000)


def test_a_guide_has_the_backend_of_its_type():
    guides = {
        "guided_decoding_guide_type": np.array([[b"regex"], [b"lark_grammar"]], np.object_),
        "guided_decoding_guide": np.array([[b"[ab]"], [b"start: /a/"]], np.object_),
    }
    assert [request.guide for request in read_requests({**ARRAYS, **guides}, CAPABILITIES)] == [
        Guide("xgrammar", "regex", "[ab]"),
        Guide("llguidance", "lark_grammar", "start: /a/"),
    ]


def test_a_guide_of_a_type_that_the_engine_does_not_take_is_rejected():
    guides = {"guided_decoding_guide_type": np.array([[b"json"], [b""]], np.object_)}
    with pytest.raises(RequestError, match="unknown guide type, allowed: regex, lark_grammar") as caught:
        read_requests({**ARRAYS, **guides}, CAPABILITIES)
    assert caught.value.code == "schema_invalid"


def test_the_response_has_each_rows_tokens_counts_and_clocks():
    arrays = write_response([completed(5, 6)], [WITH_LOG_PROBS], pad_id=0, includes_prompt=False)
    assert arrays["output_ids"].tolist() == [[[5, 6]]]
    assert (arrays["sequence_length"].tolist(), arrays["num_output_tokens"].tolist()) == ([[2]], [[2]])
    clocks = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    assert [arrays[name].item() for name in clocks] == [1, 2, 3, 4]
    assert arrays["output_log_probs"].tolist() == [[[-0.5, -0.5]]]
    assert arrays["cum_log_probs"].tolist() == [[-1.0]]


def test_shorter_rows_are_padded():
    rows = [completed(5), completed(5, 6, 7)]
    arrays = write_response(rows, [PROMPT, PROMPT], pad_id=3, includes_prompt=False)
    assert arrays["output_ids"].tolist() == [[[5, 3, 3]], [[5, 6, 7]]]
    assert "output_log_probs" not in arrays


def test_the_output_includes_the_prompt_on_request():
    arrays = write_response([completed(5)], [PROMPT], pad_id=0, includes_prompt=True)
    assert arrays["output_ids"].tolist() == [[[1, 2, 5]]]
    assert arrays["sequence_length"].tolist() == [[3]]


def test_an_empty_completion_is_an_empty_row():
    arrays = write_response([completed()], [PROMPT], pad_id=0, includes_prompt=False)
    assert arrays["output_ids"].shape == (1, 1, 0)


@pytest.mark.parametrize("text", [b"[]", b"[null]", b"nonsense", b"[1.5]", b""])
def test_a_ledger_id_that_cannot_be_read_is_not_known(text):
    assert read_ledger_ids({"policy_decision": np.frombuffer(text.ljust(12), np.uint8).reshape(1, -1)}, 1) == [0]


def test_without_the_tensor_no_ledger_id_is_known():
    assert read_ledger_ids({}, 2) == [0, 0]


@pytest.mark.parametrize("text", [b"[]", b"[null, null]", b"nonsense", b'["r"]', b'{"1": 2}', b"\xff", b""])
def test_a_tenant_that_cannot_be_read_is_not_known(text):
    assert read_tenant({"policy_decision": np.frombuffer(text.ljust(16), np.uint8).reshape(1, -1)}) == ""
    assert read_tenant({}) == ""
