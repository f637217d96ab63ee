"""A request's parameters in TensorRT-LLM's terms."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from engine_process.engine import EngineFailure
from engine_process.engines.trtllm_sampling import CPP_SAMPLER, TORCH_SAMPLER, sampling_arguments
from engine_process.messages import Generate, Guide, Sampling, write_ids
from tests.unit.engine_process.engines.trtllm_stand_in import SamplingParams


def arguments(sampling: Sampling | None = None, sampler: str = CPP_SAMPLER, **fields: Any) -> dict[str, Any]:
    given = {"max_tokens": 8, "end_id": 99, "sampling": sampling or Sampling(), **fields}
    return sampling_arguments(Generate(1, write_ids([5]), **given), sampler)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=0, top_p=0.0), Sampling(temperature=0.0, top_k=0, top_p=0.9)]
)
def test_greedy_is_top_k_one_alone(sampling):
    made = arguments(sampling)

    assert made["top_k"] == 1
    assert not {"temperature", "top_p", "seed"} & made.keys()


def test_every_argument_is_one_of_sampling_params():
    made = arguments(Sampling(0.5, 5, 0.9, 1.1, 0.1, 0.2, 3), log_probs=True, min_tokens=2)

    assert made.keys() <= {field.name for field in dataclasses.fields(SamplingParams) if field.init}


def test_a_guide_alone_says_when_the_completion_ends():
    assert arguments(min_tokens=3)["min_tokens"] == 3
    assert "min_tokens" not in arguments(min_tokens=3, guide=Guide("llguidance", "regex", "a"))


def test_a_completion_without_end_id_ends_at_no_token():
    made = arguments(end_id=-1)

    assert made["end_id"] == -1
    assert "min_tokens" not in made


def test_penalties_that_change_nothing_are_left_out():
    assert not {"repetition_penalty", "presence_penalty", "frequency_penalty"} & arguments().keys()
    assert arguments(Sampling(presence_penalty=0.5))["presence_penalty"] == 0.5


@pytest.mark.parametrize(
    ("sampling", "fields", "ignored"),
    [
        (Sampling(repetition_penalty=1.1), {}, "repetition_penalty"),
        (Sampling(presence_penalty=0.1, frequency_penalty=0.1), {}, "presence_penalty, frequency_penalty"),
        (Sampling(top_k=5, seed=3), {}, "seed"),
        (Sampling(), {"bad_sequences": [[1]]}, "bad_words"),
    ],
)
def test_what_the_pytorch_sampler_ignores_is_an_error_with_it(sampling, fields, ignored):
    with pytest.raises(EngineFailure, match=f"TorchSampler ignores {ignored}$") as failure:
        arguments(sampling, TORCH_SAMPLER, **fields)

    assert failure.value.code == "invalid_input"
    arguments(sampling, CPP_SAMPLER, **fields)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=float("nan"), top_k=5),
        Sampling(top_k=-1, top_p=0.5),
        Sampling(top_k=5, top_p=1.5),
        Sampling(repetition_penalty=0.0),
        Sampling(presence_penalty=float("inf")),
    ],
)
def test_a_parameter_out_of_range_is_rejected(sampling):
    with pytest.raises(EngineFailure) as failure:
        arguments(sampling)

    assert failure.value.code == "invalid_input"
