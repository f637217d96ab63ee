"""Requests that would make an engine's workers die are rejected before."""

from __future__ import annotations

import pytest

from engine_process.engine import EngineFailure
from engine_process.engines.request_limits import check_range, check_request
from engine_process.messages import Capabilities, Generate, write_ids

CAPABILITIES = Capabilities(8, max_model_len=16, vocab_size=100, guide_types=[])


def request(ids=(1, 2), max_tokens=4, **fields):
    return Generate(1, write_ids(ids), max_tokens, **fields)


def test_a_good_request_gives_its_prompt():
    assert check_request(request(end_id=99, bad_sequences=[[0, 99]]), CAPABILITIES) == [1, 2]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (request(ids=()), "the prompt has no tokens"),
        (request(max_tokens=0), "max_tokens is 0, at least 1 is needed"),
        (request(min_tokens=-1), "min_tokens is -1, at least 0 is needed"),
        (request(max_tokens=15), "2 prompt tokens and max_tokens 15, limit 16 together"),
        (request(ids=(1, 100)), "a token id in input_ids is outside the vocabulary of 100"),
        (request(ids=(-1,)), "a token id in input_ids is outside the vocabulary of 100"),
        (request(end_id=100), "a token id in end_id is outside the vocabulary of 100"),
        (request(bad_sequences=[[1], [100]]), "a token id in bad_sequences is outside the vocabulary of 100"),
        (request(bad_sequences=[[]]), "an empty sequence in bad_sequences"),
    ],
)
def test_a_request_beyond_a_limit_is_invalid_input(bad, text):
    with pytest.raises(EngineFailure) as failure:
        check_request(bad, CAPABILITIES)

    assert (failure.value.code, failure.value.detail) == ("invalid_input", text)


def test_an_end_id_below_zero_is_none():
    check_request(request(end_id=-1), CAPABILITIES)


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), float("inf")])
def test_a_parameter_out_of_range_or_not_a_number_is_invalid_input(value):
    with pytest.raises(EngineFailure, match=r"temperature is .*, this engine takes 0 to 2"):
        check_range("temperature", value, 0.0, 2.0)
