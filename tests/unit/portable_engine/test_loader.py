"""Loading a model: random weights on request, device and threads from the environment."""

import os

import pytest
import torch
from transformers import Qwen3Config

from portable_engine.loader import DEVICE, RANDOM_WEIGHTS, THREADS, choose_device, choose_num_threads, load_model


def tiny_config() -> Qwen3Config:
    return Qwen3Config(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, architectures=["Qwen3ForCausalLM"],
    )  # fmt: skip


def test_random_weights_are_the_same_each_time(tmp_path, monkeypatch):
    tiny_config().save_pretrained(tmp_path)
    monkeypatch.setenv(RANDOM_WEIGHTS, "1")
    first, second = load_model(tmp_path).state_dict(), load_model(tmp_path).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_without_weights_is_an_error_unless_random_weights_are_requested(tmp_path, monkeypatch):
    tiny_config().save_pretrained(tmp_path)
    monkeypatch.delenv(RANDOM_WEIGHTS, raising=False)
    with pytest.raises(OSError, match="no file named"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["sesame", "cuda:99"])
def test_the_error_for_a_missing_device_names_it(monkeypatch, name):
    monkeypatch.setenv(DEVICE, name)
    with pytest.raises(ValueError, match=f"LLMSTACK_ENGINE_DEVICE is '{name}'"):
        choose_device()


def test_a_small_model_runs_on_one_thread_and_a_larger_one_on_every_core(monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    assert choose_num_threads(8_000_000) == 1
    assert choose_num_threads(4_000_000_000) == len(os.sched_getaffinity(0))


def test_the_environment_can_set_the_number_of_threads(monkeypatch):
    monkeypatch.setenv(THREADS, "3")
    assert choose_num_threads(8_000_000) == 3


def test_a_number_of_threads_below_1_is_an_error(monkeypatch):
    monkeypatch.setenv(THREADS, "0")
    with pytest.raises(ValueError, match="LLMSTACK_ENGINE_THREADS is '0', expected an integer of 1 or more"):
        choose_num_threads(8_000_000)
