"""Training: the tokens are the ensemble's, the same seed gives the same batches, a few steps lower the loss."""

import numpy as np
import pytest

from llm_policy.manifest import TASKS
from llm_policy.tokenizer import Tokenizer as PolicyTokenizer
from llmstack.embedded.examples import held_out_examples
from llmstack.paths import DEFAULT_RELEASE_DIR

training = pytest.importorskip("llmstack.embedded.training", reason="torch is not installed")


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"))


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_has_the_token_ids_that_the_ensemble_gives_it(tokenizer, task):
    policy = PolicyTokenizer.load(DEFAULT_RELEASE_DIR / "tokenizer")
    for example in held_out_examples(task, 3, 30, 10):
        prompt, _ = training.encode_example(tokenizer, example)
        assert prompt == policy.encode_chat(example.messages().encode(), lambda text: None).tolist()


def test_an_answer_ends_with_the_token_that_ends_a_turn(tokenizer):
    _, answer = training.encode_example(tokenizer, held_out_examples("judge", 1, 1, 1)[0])
    assert answer[-1] == tokenizer.token_to_id("<|im_end|>")


def test_a_steps_batches_depend_on_seed_and_step_alone():
    training._start_worker(str(DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"))
    once, again, other = (training._make_step(job) for job in ((0, 7), (0, 7), (0, 8)))
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0].ids, other[0].ids)


def test_only_what_stands_in_a_row_has_weight():
    training._start_worker(str(DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"))
    for batch in training._make_step((0, 0)):
        assert not batch.weights[batch.ids == 0].any() or (batch.ids[batch.weights > 0] == 0).mean() < 0.01
        assert set(np.unique(batch.weights)) == {0.0, np.float32(training.PROMPT_LOSS_SHARE), 1.0}


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    rates = [training._rate(step, 1_000) for step in range(1_000)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4


def test_a_few_steps_on_a_cpu_lower_the_loss(monkeypatch, tokenizer):
    from llmstack.embedded.release import model_config
    from llmstack.embedded.weights import Architecture

    def small_steps(path, seed, num_steps):
        training._start_worker(str(path))
        for step in range(num_steps):
            yield [training.Batch(b.ids[:4], b.weights[:4]) for b in training._make_step((seed, step))]

    monkeypatch.setattr(training, "_step_batches", small_steps)
    seen = []
    config = model_config(tokenizer, Architecture(32, 1, 2, 1, 16, 64))
    path = DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"
    weights = training.train(config, path, 0, 40, seen.append)
    assert seen[-1].step == 40
    assert seen[-1].loss < seen[0].loss
    assert "lm_head.weight" not in weights
