"""Qwen3Decoder computes the same as transformers, and is used only for configurations where it does."""

import copy

import pytest
import torch
from transformers import Qwen3Config

from portable_engine.attention import GROUPED
from portable_engine.batcher import InFlightBatcher
from portable_engine.loader import optimise
from portable_engine.qwen3_decoder import Qwen3Decoder, is_plain_qwen3
from tests.unit.portable_engine.tiny_qwen3 import PROMPTS, decode, make_sequence, mask_nothing, tiny_model


def optimised_model_and_reference():
    model = copy.deepcopy(tiny_model())
    for parameter in model.parameters():  # different norms, so that a confusion of two of them changes the output
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    reference = copy.deepcopy(model)
    model.set_attn_implementation(GROUPED)
    return optimise(model), reference


@torch.inference_mode()
def test_greedy_tokens_equal_those_of_transformers():
    optimised, reference = optimised_model_and_reference()
    assert isinstance(optimised, Qwen3Decoder)
    expected = [
        reference.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)[
            0, len(prompt) :
        ]
        for prompt in PROMPTS
    ]
    together = decode(*map(make_sequence, PROMPTS), batcher=InFlightBatcher(optimised, 4, mask_nothing))
    assert together == [tokens.tolist() for tokens in expected]


@torch.inference_mode()
def test_the_original_model_keeps_no_second_copy_of_the_layers():
    model = copy.deepcopy(tiny_model())
    model.set_attn_implementation(GROUPED)
    optimise(model)
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
def test_qwen3_with_unusual_settings_runs_through_transformers(changes):
    assert is_plain_qwen3(Qwen3Config())
    assert not is_plain_qwen3(Qwen3Config(**changes))
