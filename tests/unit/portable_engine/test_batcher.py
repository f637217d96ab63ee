"""In-flight batching: sequences join and leave at any step, and batching does not change their tokens."""

import pytest
import torch

from portable_engine.sequence import FinishReason
from tests.unit.portable_engine.tiny_qwen3 import END, PROMPTS, decode, make_batcher, make_sequence, tiny_model


@pytest.mark.parametrize("sampling", [{}, {"top_k": 0, "top_p": 0.9, "temperature": 1.3, "seed": 11}])
def test_a_batch_generates_the_same_tokens_as_each_sequence_alone(sampling):
    alone = [decode(make_sequence(prompt, sampling=sampling))[0] for prompt in PROMPTS]
    assert decode(*(make_sequence(prompt, sampling=sampling) for prompt in PROMPTS)) == alone


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_equal_those_of_transformers(prompt):
    expected = tiny_model().generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert decode(make_sequence(prompt))[0] == expected[0, len(prompt) :].tolist()


def test_a_prompt_longer_than_a_prefill_chunk_generates_the_same_tokens_as_transformers():
    prompt = [token % 300 for token in range(7, 7 + 1_300)]
    expected = tiny_model().generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert decode(make_sequence(prompt, 4))[0] == expected[0, len(prompt) :].tolist()


def test_several_short_prompts_are_prefilled_in_one_step():
    batcher, sequences = make_batcher(), [make_sequence([token] * 128, 3) for token in (5, 6, 7, 8)]
    for sequence in sequences:
        batcher.add(sequence)
    batcher.step()
    assert [len(sequence.completion_token_ids) for sequence in sequences] == [1] * 4


def test_prompts_prefilled_together_generate_the_same_tokens_as_each_alone():
    prompts = [
        [token % 300 for token in range(start, start + length)] for start, length in ((7, 300), (40, 300), (90, 30))
    ]
    alone = [decode(make_sequence(prompt))[0] for prompt in prompts]
    assert decode(*map(make_sequence, prompts)) == alone


def test_a_long_prompt_is_not_delayed_by_later_short_prompts():
    batcher, long = make_batcher(max_batch_size=2), make_sequence([5] * 1_500, 4)
    batcher.add(make_sequence([6], 1))
    batcher.add(long)
    for _ in range(4):
        batcher.add(make_sequence([6], 1))
        batcher.step()
    assert long.completion_token_ids


def test_first_scheduled_time_is_set_when_the_first_prompt_token_is_prefilled():
    batcher, first, second = make_batcher(), make_sequence([5] * 1_024, 2), make_sequence([6], 2)
    batcher.add(first)
    batcher.add(second)
    batcher.step()
    batcher.step()
    before_third_step = batcher._clock()
    batcher.step()
    assert first.first_scheduled_time_ns < before_third_step < second.first_scheduled_time_ns


def test_a_sequence_that_arrives_late_joins_at_the_next_step():
    batcher, first, late = make_batcher(), make_sequence([5], 20), make_sequence([6], 3)
    batcher.add(first)
    for _ in range(5):
        batcher.step()
    batcher.add(late)
    batcher.step()
    assert (len(first.completion_token_ids), len(late.completion_token_ids)) == (6, 1)
    assert first.first_token_time_ns < late.first_scheduled_time_ns < late.first_token_time_ns


def test_a_finished_sequence_leaves_while_others_continue():
    batcher, short, long = make_batcher(), make_sequence([5], 2), make_sequence([6], 9)
    batcher.add(short)
    batcher.add(long)
    finished = []
    while not finished:
        finished = batcher.step()
    assert finished == [short]
    assert long.finish_reason is None
    assert short.last_token_time_ns < batcher._clock()


def test_a_sequence_without_a_free_slot_waits_until_another_finishes():
    batcher = make_batcher(max_batch_size=2)
    sequences = [make_sequence([token], 3) for token in (5, 6, 7)]
    decode(*sequences, batcher=batcher)
    assert sequences[2].first_scheduled_time_ns > sequences[0].last_token_time_ns


def test_a_reused_slot_does_not_affect_the_next_sequence():
    batcher = make_batcher(max_batch_size=1)
    decode(make_sequence(list(range(100, 160))), batcher=batcher)
    assert decode(make_sequence([5, 9, 11]), batcher=batcher) == decode(make_sequence([5, 9, 11]))


def test_a_cancelled_sequence_leaves_at_the_next_step():
    batcher, kept, cancelled = make_batcher(), make_sequence([5], 6), make_sequence([6], 500)
    batcher.add(kept)
    batcher.add(cancelled)
    batcher.step()
    batcher.cancel(cancelled)
    assert batcher.step() == [cancelled]
    assert cancelled.finish_reason is FinishReason.CANCELLED


def test_a_waiting_sequence_that_is_cancelled_never_runs():
    batcher, running, waiting = make_batcher(max_batch_size=1), make_sequence([5], 6), make_sequence([6], 6)
    batcher.add(running)
    batcher.add(waiting)
    batcher.step()
    batcher.cancel(waiting)
    assert batcher.step() == [waiting]
    assert waiting.completion_token_ids == []


def test_end_id_finishes_a_sequence_and_is_its_last_token():
    tokens = decode(make_sequence([5, 9, 11]))[0]
    sequence = make_sequence([5, 9, 11], end_id=tokens[3])
    assert decode(sequence)[0] == tokens[: tokens.index(tokens[3]) + 1]
    assert sequence.finish_reason is FinishReason.END


def test_a_stop_word_of_two_tokens_finishes_a_sequence():
    tokens = decode(make_sequence([5, 9, 11]))[0]
    sequence = make_sequence([5, 9, 11], stop_words=((tokens[1], tokens[2]),))
    assert decode(sequence)[0] == tokens[:3]
    assert sequence.finish_reason is FinishReason.STOP_WORD


def test_max_new_tokens_finishes_a_sequence():
    sequence = make_sequence([5], 3, end_id=END)
    decode(sequence)
    assert (len(sequence.completion_token_ids), sequence.finish_reason) == (3, FinishReason.LENGTH)


def test_log_probs_equal_those_of_a_plain_forward_pass():
    sequence = make_sequence([5, 9, 11], 5, return_log_probs=True)
    tokens = decode(sequence)[0]
    with torch.inference_mode():
        logits = tiny_model()(torch.tensor([[5, 9, 11, *tokens]])).logits[0, 2:-1].float()
    expected = torch.log_softmax(logits, -1)[range(5), tokens]
    assert torch.allclose(torch.tensor(sequence.log_probs), expected, atol=1e-4)


@pytest.mark.parametrize("sampling", [{}, {"top_k": 0, "top_p": 0.9, "temperature": 1.3, "seed": 11}])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 9])
def test_a_displaced_sequence_gets_the_same_tokens_as_without_a_pause(sampling, num_steps):
    alone = decode(make_sequence([5, 9, 11], sampling=sampling), make_sequence([250], sampling=sampling))
    batcher = make_batcher(max_batch_size=2)
    first, second = make_sequence([5, 9, 11], sampling=sampling), make_sequence([250], sampling=sampling)
    for sequence in (first, second):
        batcher.add(sequence)
    for _ in range(num_steps):
        batcher.step()
    newcomer = make_sequence([3] * 20, tenant="b")
    batcher.add(newcomer)
    batcher.step()
    assert (second.slot, len(newcomer.completion_token_ids)) == (-1, 1)
    while not batcher.is_idle:
        batcher.step()
    assert [first.completion_token_ids, second.completion_token_ids] == alone


def test_a_sequence_displaced_during_its_prefill_gets_the_same_tokens():
    prompt = [token % 300 for token in range(7, 7 + 1_300)]
    alone = decode(make_sequence(prompt, 4))
    batcher, long = make_batcher(max_batch_size=2), make_sequence(prompt, 4)
    batcher.add(make_sequence([6], 200))
    batcher.add(long)
    batcher.step()
    batcher.add(make_sequence([6], 2, tenant="b"))
    batcher.step()
    assert long.slot == -1
    while not batcher.is_idle:
        batcher.step()
    assert [long.completion_token_ids] == alone


def test_a_sequence_that_cannot_be_displaced_for_lack_of_memory_ends(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError

    batcher, sequence, newcomer = (
        make_batcher(max_batch_size=2),
        make_sequence([5], 50),
        make_sequence([6], 1, tenant="b"),
    )
    batcher.add(make_sequence([4], 60))
    batcher.add(sequence)
    batcher.step()
    monkeypatch.setattr(batcher._cache, "copy_slot", fail)
    batcher.add(newcomer)
    assert batcher.step() == [sequence]
    assert sequence.finish_reason is FinishReason.OUT_OF_MEMORY
    assert batcher.step() == [newcomer]


def test_a_displaced_sequence_with_many_tokens_gets_the_same_tokens():
    alone = decode(make_sequence([5], 700))
    batcher, long = make_batcher(max_batch_size=2), make_sequence([5], 700)
    batcher.add(make_sequence([6], 710))
    batcher.add(long)
    for _ in range(650):
        batcher.step()
    batcher.add(make_sequence([6], 2, tenant="b"))
    while not batcher.is_idle:
        batcher.step()
    assert [long.completion_token_ids] == alone
