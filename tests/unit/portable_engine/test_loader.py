"""What the loader changes in a model changes nothing in its answers."""

import copy
import os

import pytest
import torch
from transformers import Qwen3Config

from portable_engine.attention import GROUPED
from portable_engine.engine_loop import EngineLoop
from portable_engine.loader import DEVICE, RANDOM_WEIGHTS, THREADS, choose_device, choose_num_threads, load_model
from portable_engine.rms_norm import fuse_norms
from portable_engine.sequence import GenerationRequest
from portable_engine.skinny_linear import MAX_ROWS, SkinnyLinear, make_linears_skinny
from tests.unit.portable_engine.tiny_qwen3 import InFlightBatcher, no_mask, run, sequence, tiny_model

PROMPTS = [[5, 9, 11], [3] * 20, list(range(40, 90)), [250]]


def tuned_model():
    model = copy.deepcopy(tiny_model())
    model.set_attn_implementation(GROUPED)
    make_linears_skinny(model)
    fuse_norms(model)
    return model


@torch.inference_mode()
def test_a_tuned_model_decodes_the_tokens_of_an_untouched_one():
    engine = InFlightBatcher(tuned_model(), 4, no_mask)
    assert run(*map(sequence, PROMPTS), engine=engine) == run(*map(sequence, PROMPTS))


@torch.inference_mode()
@pytest.mark.parametrize("num_rows", [1, 2, MAX_ROWS, MAX_ROWS + 1])
def test_a_skinny_layer_computes_what_torchs_own_does(num_rows):
    layer, states = torch.nn.Linear(24, 40, bias=False), torch.randn(num_rows, 1, 24)
    product = SkinnyLinear(layer)(states)
    torch.testing.assert_close(product, layer(states))
    assert product.is_contiguous()  # masks are applied to it in place, by code that counts on it


def tiny_config() -> Qwen3Config:
    return Qwen3Config(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, architectures=["Qwen3ForCausalLM"],
    )  # fmt: skip


def test_an_engine_without_weights_gets_the_same_random_ones_each_time(tmp_path, monkeypatch):
    tiny_config().save_pretrained(tmp_path)
    monkeypatch.setenv(RANDOM_WEIGHTS, "1")
    first, second = load_model(tmp_path).state_dict(), load_model(tmp_path).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_engine_without_weights_is_refused_unless_random_ones_are_asked_for(tmp_path, monkeypatch):
    tiny_config().save_pretrained(tmp_path)
    monkeypatch.delenv(RANDOM_WEIGHTS, raising=False)
    with pytest.raises(OSError, match="no file named"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["sesame", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_name(monkeypatch, name):
    monkeypatch.setenv(DEVICE, name)
    with pytest.raises(ValueError, match=f"LLMSTACK_ENGINE_DEVICE is '{name}'"):
        choose_device()


def test_a_small_model_runs_on_one_thread_and_a_larger_one_on_every_core(monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    assert choose_num_threads(8_000_000) == 1
    assert choose_num_threads(4_000_000_000) == len(os.sched_getaffinity(0))


def test_the_number_of_threads_can_be_chosen(monkeypatch):
    monkeypatch.setenv(THREADS, "3")
    assert choose_num_threads(8_000_000) == 3
    monkeypatch.setenv(THREADS, "0")
    with pytest.raises(ValueError, match="LLMSTACK_ENGINE_THREADS is '0', allowed are numbers from 1"):
        choose_num_threads(8_000_000)


class FailingBatcher(InFlightBatcher):
    """Breaks at its first step."""

    def step(self):
        raise RuntimeError("out of memory")


def test_a_step_that_fails_answers_each_job_once_and_the_loop_goes_on():
    errors, lines = [], []
    batcher = FailingBatcher(tiny_model(), 4, no_mask)
    loop = EngineLoop(batcher, grammars=None, log=lines.append)
    for _ in range(2):
        loop.submit([GenerationRequest([5], 4)], print, errors.append, lambda: False, lambda: None)
    loop.close()
    assert list(map(str, errors)) == ["internal: the engine failed while it decoded"] * 2
    assert all("decode step failed: RuntimeError at " in line and "out of memory" in line for line in lines)
