"""Penalties, bans and seeds."""

import pytest
import torch

from portable_engine.sampling import sample_tokens
from tests.unit.portable_engine.tiny_qwen3 import END, decode, make_sequence


def sample(logits, *, history=(), **changes):
    sequence = make_sequence([1, 2], **changes)
    sequence.completion_token_ids.extend(history)
    return sample_tokens(torch.tensor([logits]), [sequence])[0][0]


def test_greedy_sampling_chooses_the_most_likely_token():
    assert sample([0.0, 3.0, 2.0]) == 1


def test_a_bad_word_of_one_token_is_never_chosen():
    assert sample([0.0, 3.0, 2.0], bad_words=((1,),)) == 2


def test_the_last_token_of_a_bad_word_is_banned_only_after_the_others():
    assert sample([0.0, 3.0, 2.0], bad_words=((0, 1),)) == 1
    assert sample([0.0, 3.0, 2.0], bad_words=((0, 1),), history=[0]) == 2


def test_end_id_is_banned_before_min_tokens():
    assert sample([0.0, 3.0, 2.0], end_id=1, sampling={"min_tokens": 2}, history=[0]) == 2
    assert sample([0.0, 3.0, 2.0], end_id=1, sampling={"min_tokens": 2}, history=[0, 0]) == 1


def test_a_presence_penalty_counts_once():
    assert sample([2.5, 3.0, 0.0], sampling={"presence_penalty": 1.0}, history=[1, 1]) == 0
    assert sample([1.5, 3.0, 0.0], sampling={"presence_penalty": 1.0}, history=[1, 1]) == 1


def test_a_frequency_penalty_counts_every_occurrence():
    assert sample([1.5, 3.0, 0.0], sampling={"frequency_penalty": 1.0}, history=[1, 1]) == 0


def test_a_repetition_penalty_covers_the_prompt():
    assert sample([2.0, 3.0, 0.0], sampling={"repetition_penalty": 2.0}) == 0


def test_the_same_seed_gives_the_same_tokens_and_another_seed_gives_others():
    completions = [
        decode(make_sequence([5], 20, sampling={"top_k": 0, "top_p": 1.0, "seed": seed}))[0] for seed in (1, 1, 2)
    ]
    assert completions[0] == completions[1] != completions[2]


@pytest.mark.parametrize("sampling", [{"top_k": 2, "top_p": 1.0}, {"top_k": 0, "top_p": 0.5}])
def test_top_k_and_top_p_keep_only_the_most_likely_tokens(sampling):
    chosen = {sample([0.0, 5.0, 4.9, 0.1], sampling={**sampling, "seed": seed}) for seed in range(40)}
    assert chosen <= {1, 2}


def test_top_k_0_with_top_p_0_is_greedy_as_in_tensorrt_llm():
    assert sample([0.0, 3.0, 2.9], sampling={"top_k": 0, "top_p": 0.0, "temperature": 2.0}) == 1


def test_a_temperature_of_zero_is_greedy():
    assert sample([0.0, 3.0, 2.9], sampling={"top_k": 0, "top_p": 0.9, "temperature": 0.0}) == 1


@pytest.mark.parametrize("sampling", [{}, {"top_k": 0, "top_p": 0.9, "temperature": 0.5}])
def test_no_token_is_chosen_where_every_token_is_banned(sampling):
    banned = make_sequence([1, 2], bad_words=((0,), (1,)), sampling=sampling)
    unrestricted = make_sequence([1, 2], sampling={"top_k": 1})
    logits = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    assert sample_tokens(logits, [banned, unrestricted]) == [None, (1, 0.0)]


def test_any_64_bit_seed_is_accepted():
    decode(make_sequence([5], 2, end_id=END, sampling={"top_k": 0, "top_p": 1.0, "seed": 2**64 - 1}))
