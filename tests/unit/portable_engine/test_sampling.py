"""Penalties, bans and seeds."""

import pytest
import torch

from portable_engine.sampling import choose_tokens
from tests.unit.portable_engine.tiny_qwen3 import END, run, sequence


def chosen(logits, *, history=(), **changes):
    each = sequence([1, 2], **changes)
    each.completion_token_ids.extend(history)
    return choose_tokens(torch.tensor([logits]), [each])[0][0]


def test_greedy_takes_the_likeliest():
    assert chosen([0.0, 3.0, 2.0]) == 1


def test_a_bad_word_of_one_token_is_never_taken():
    assert chosen([0.0, 3.0, 2.0], bad_words=((1,),)) == 2


def test_the_last_token_of_a_bad_word_is_banned_only_after_the_others():
    assert chosen([0.0, 3.0, 2.0], bad_words=((0, 1),)) == 1
    assert chosen([0.0, 3.0, 2.0], bad_words=((0, 1),), history=[0]) == 2


def test_end_id_is_banned_before_min_tokens():
    assert chosen([0.0, 3.0, 2.0], end_id=1, sampling={"min_tokens": 2}, history=[0]) == 2
    assert chosen([0.0, 3.0, 2.0], end_id=1, sampling={"min_tokens": 2}, history=[0, 0]) == 1


def test_a_presence_penalty_counts_once():
    assert chosen([2.5, 3.0, 0.0], sampling={"presence_penalty": 1.0}, history=[1, 1]) == 0
    assert chosen([1.5, 3.0, 0.0], sampling={"presence_penalty": 1.0}, history=[1, 1]) == 1


def test_a_frequency_penalty_counts_every_time():
    assert chosen([1.5, 3.0, 0.0], sampling={"frequency_penalty": 1.0}, history=[1, 1]) == 0


def test_a_repetition_penalty_covers_the_prompt():
    assert chosen([2.0, 3.0, 0.0], sampling={"repetition_penalty": 2.0}) == 0


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others():
    drawn = [run(sequence([5], 20, sampling={"top_k": 0, "top_p": 1.0, "seed": seed}))[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("sampling", [{"top_k": 2, "top_p": 1.0}, {"top_k": 0, "top_p": 0.5}])
def test_top_k_and_top_p_leave_only_the_likeliest(sampling):
    taken = {chosen([0.0, 5.0, 4.9, 0.1], sampling={**sampling, "seed": seed}) for seed in range(40)}
    assert taken <= {1, 2}


def test_no_top_k_and_no_top_p_is_greedy_as_in_tensorrt_llm():
    assert chosen([0.0, 3.0, 2.9], sampling={"top_k": 0, "top_p": 0.0, "temperature": 2.0}) == 1


def test_a_temperature_of_zero_is_greedy():
    assert chosen([0.0, 3.0, 2.9], sampling={"top_k": 0, "top_p": 0.9, "temperature": 0.0}) == 1


@pytest.mark.parametrize("sampling", [{}, {"top_k": 0, "top_p": 0.9, "temperature": 0.5}])
def test_nothing_is_chosen_where_everything_is_banned(sampling):
    each = sequence([1, 2], bad_words=((0,), (1,)), sampling=sampling)
    free = sequence([1, 2], sampling={"top_k": 1})
    logits = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    assert choose_tokens(logits, [each, free]) == [None, (1, 0.0)]


def test_every_seed_of_64_bits_is_taken():
    run(sequence([5], 2, end_id=END, sampling={"top_k": 0, "top_p": 1.0, "seed": 2**64 - 1}))
