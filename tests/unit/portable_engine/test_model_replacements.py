"""Modules that replace parts of a transformers model: attention, norms and linear layers compute the same."""

import copy

import pytest
import torch

from portable_engine.attention import GROUPED
from portable_engine.batcher import InFlightBatcher
from portable_engine.rms_norm import fuse_rms_norms
from portable_engine.skinny_linear import MAX_ROWS, SkinnyLinear, replace_linears
from tests.unit.portable_engine.tiny_qwen3 import PROMPTS, decode, make_sequence, mask_nothing, tiny_model


def model_with_replacements():
    model = copy.deepcopy(tiny_model())
    model.set_attn_implementation(GROUPED)
    replace_linears(model)
    fuse_rms_norms(model)
    return model


@torch.inference_mode()
def test_a_model_with_replacements_generates_the_tokens_of_the_original():
    batcher = InFlightBatcher(model_with_replacements(), 4, mask_nothing)
    assert decode(*map(make_sequence, PROMPTS), batcher=batcher) == decode(*map(make_sequence, PROMPTS))


@torch.inference_mode()
@pytest.mark.parametrize("num_rows", [1, 2, MAX_ROWS, MAX_ROWS + 1])
def test_a_skinny_linear_computes_the_same_as_torchs_layer(num_rows):
    layer, states = torch.nn.Linear(24, 40, bias=False), torch.randn(num_rows, 1, 24)
    product = SkinnyLinear(layer)(states)
    torch.testing.assert_close(product, layer(states))
    assert product.is_contiguous()  # required to mask logits in place
