"""In-flight batching: sequences join and leave step by step, and company changes nothing."""

import pytest
import torch

from portable_engine.sequence import Finish
from tests.unit.portable_engine.tiny_qwen3 import END, batcher, run, sequence, tiny_model

PROMPTS = [[5, 9, 11], [3] * 20, list(range(40, 90)), [250]]


@pytest.mark.parametrize("sampling", [{}, {"top_k": 0, "top_p": 0.9, "temperature": 1.3, "seed": 11}])
def test_a_batch_gives_what_each_sequence_gives_alone(sampling):
    alone = [run(sequence(prompt, sampling=sampling))[0] for prompt in PROMPTS]
    assert run(*(sequence(prompt, sampling=sampling) for prompt in PROMPTS)) == alone


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_are_those_of_transformers(prompt):
    expected = tiny_model().generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert run(sequence(prompt))[0] == expected[0, len(prompt) :].tolist()


def test_a_prompt_longer_than_a_chunk_gives_the_same_tokens():
    prompt = [token % 300 for token in range(7, 7 + 1_300)]
    expected = tiny_model().generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert run(sequence(prompt, 4))[0] == expected[0, len(prompt) :].tolist()


def test_several_short_prompts_are_taken_in_one_step():
    engine, sequences = batcher(), [sequence([token] * 128, 3) for token in (5, 6, 7, 8)]
    for each in sequences:
        engine.add(each)
    engine.step()
    assert [len(each.completion_token_ids) for each in sequences] == [1] * 4


def test_prompts_that_share_steps_give_the_tokens_that_each_gives_alone():
    prompts = [
        [token % 300 for token in range(start, start + length)] for start, length in ((7, 300), (40, 300), (90, 30))
    ]
    alone = [run(sequence(prompt))[0] for prompt in prompts]
    assert run(*map(sequence, prompts)) == alone


def test_a_long_prompt_does_not_wait_for_short_ones_that_came_later():
    engine, long = batcher(max_batch_size=2), sequence([5] * 1_500, 4)
    engine.add(sequence([6], 1))
    engine.add(long)
    for _ in range(4):
        engine.add(sequence([6], 1))
        engine.step()
    assert long.completion_token_ids


def test_a_prompt_that_waits_for_others_is_not_yet_scheduled():
    engine, first, second = batcher(), sequence([5] * 1_024, 2), sequence([6], 2)
    engine.add(first)
    engine.add(second)
    engine.step()
    engine.step()
    began = engine._clock()
    engine.step()
    assert first.first_scheduled_time_ns < began < second.first_scheduled_time_ns


def test_a_sequence_that_arrives_late_joins_at_the_next_step():
    engine, first, late = batcher(), sequence([5], 20), sequence([6], 3)
    engine.add(first)
    for _ in range(5):
        engine.step()
    engine.add(late)
    engine.step()
    assert (len(first.completion_token_ids), len(late.completion_token_ids)) == (6, 1)
    assert first.first_token_time_ns < late.first_scheduled_time_ns < late.first_token_time_ns


def test_a_finished_sequence_leaves_at_once_while_others_go_on():
    engine, short, long = batcher(), sequence([5], 2), sequence([6], 9)
    engine.add(short)
    engine.add(long)
    ended = []
    while not ended:
        ended = engine.step()
    assert ended == [short]
    assert long.finish is None
    assert short.last_token_time_ns < engine._clock()


def test_more_sequences_than_slots_wait_for_one_that_leaves():
    engine = batcher(max_batch_size=2)
    sequences = [sequence([token], 3) for token in (5, 6, 7)]
    run(*sequences, engine=engine)
    assert sequences[2].first_scheduled_time_ns > sequences[0].last_token_time_ns


def test_a_slot_used_before_leaves_nothing_behind():
    engine = batcher(max_batch_size=1)
    run(sequence(list(range(100, 160))), engine=engine)
    assert run(sequence([5, 9, 11]), engine=engine) == run(sequence([5, 9, 11]))


def test_a_cancelled_sequence_leaves_at_the_next_step():
    engine, kept, dropped = batcher(), sequence([5], 6), sequence([6], 500)
    engine.add(kept)
    engine.add(dropped)
    engine.step()
    engine.cancel(dropped)
    assert engine.step() == [dropped]
    assert dropped.finish is Finish.CANCELLED


def test_a_sequence_cancelled_while_it_waits_never_runs():
    engine, running, waiting = batcher(max_batch_size=1), sequence([5], 6), sequence([6], 6)
    engine.add(running)
    engine.add(waiting)
    engine.step()
    engine.cancel(waiting)
    assert engine.step() == [waiting]
    assert waiting.completion_token_ids == []


def test_end_id_ends_a_sequence_and_is_part_of_it():
    tokens = run(sequence([5, 9, 11]))[0]
    ended = sequence([5, 9, 11], end_id=tokens[3])
    assert run(ended)[0] == tokens[: tokens.index(tokens[3]) + 1]
    assert ended.finish is Finish.END


def test_a_stop_word_of_two_tokens_ends_a_sequence():
    tokens = run(sequence([5, 9, 11]))[0]
    stopped = sequence([5, 9, 11], stop_words=((tokens[1], tokens[2]),))
    assert run(stopped)[0] == tokens[:3]
    assert stopped.finish is Finish.STOP_WORD


def test_max_new_tokens_ends_a_sequence():
    cut = sequence([5], 3, end_id=END)
    run(cut)
    assert (len(cut.completion_token_ids), cut.finish) == (3, Finish.LENGTH)


def test_log_probs_are_those_of_a_plain_forward_pass():
    scored = sequence([5, 9, 11], 5, return_log_probs=True)
    tokens = run(scored)[0]
    with torch.inference_mode():
        logits = tiny_model()(torch.tensor([[5, 9, 11, *tokens]])).logits[0, 2:-1].float()
    expected = torch.log_softmax(logits, -1)[range(5), tokens]
    assert torch.allclose(torch.tensor(scored.log_probs), expected, atol=1e-4)
