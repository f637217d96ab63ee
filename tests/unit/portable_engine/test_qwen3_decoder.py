"""The short forward pass computes what transformers' own does, and stands aside where it would not."""

import copy

import pytest
import torch
from transformers import Qwen3Config

from portable_engine.attention import GROUPED
from portable_engine.loader import tune
from portable_engine.qwen3_decoder import Qwen3Decoder, is_plain_qwen3
from tests.unit.portable_engine.tiny_qwen3 import InFlightBatcher, no_mask, run, sequence, tiny_model

PROMPTS = [[5, 9, 11], [3] * 20, list(range(40, 90)), [250]]


def tuned_model():
    model = copy.deepcopy(tiny_model())
    for parameter in model.parameters():  # norms of ones would hide which norm is which
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    reference = copy.deepcopy(model)
    model.set_attn_implementation(GROUPED)
    return tune(model), reference


@torch.inference_mode()
def test_greedy_tokens_are_those_of_transformers():
    tuned, reference = tuned_model()
    assert isinstance(tuned, Qwen3Decoder)
    expected = [
        reference.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)[
            0, len(prompt) :
        ]
        for prompt in PROMPTS
    ]
    together = run(*map(sequence, PROMPTS), engine=InFlightBatcher(tuned, 4, no_mask))
    assert together == [tokens.tolist() for tokens in expected]


@torch.inference_mode()
def test_the_model_it_came_from_keeps_no_second_copy_of_the_weights():
    model = copy.deepcopy(tiny_model())
    model.set_attn_implementation(GROUPED)
    tune(model)
    assert len(model.model.layers) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}},
    ],
)
def test_what_is_not_quite_qwen3_runs_through_transformers(changes):
    assert is_plain_qwen3(Qwen3Config())
    assert not is_plain_qwen3(Qwen3Config(**changes))
