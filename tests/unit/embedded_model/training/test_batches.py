"""Batches: the token ids are those of the ensemble, and a step's batches depend on nothing but seed and step."""

from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedded_model.examples.generator import held_out_examples
from embedded_model.training import batches
from embedded_model.training.batches import BatchSize
from llm_policy.release.manifest import TASKS
from llm_policy.text.tokenizer import Tokenizer as PolicyTokenizer
from llmstack.paths import DEFAULT_RELEASE_DIR

TOKENIZER = DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer():
    batches.load_tokenizer(str(TOKENIZER))
    return Tokenizer.from_file(str(TOKENIZER))


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_has_the_token_ids_of_the_ensemble(tokenizer, task):
    policy = PolicyTokenizer.load(DEFAULT_RELEASE_DIR / "tokenizer")
    examples = held_out_examples(task, 3, 60, 10)
    assert {example.is_chat for example in examples} == {True, False}
    for example in examples:
        prompt, _ = batches.encode_example(tokenizer, example)
        inputs = example.inputs()
        if example.is_chat:
            assert prompt == policy.encode_chat(inputs["messages"].encode(), lambda text: None).tolist()
        else:
            assert prompt == list(policy.encode_text(inputs["text_input"]))


def test_an_answer_ends_with_the_end_of_message_token(tokenizer):
    _, answer = batches.encode_example(tokenizer, held_out_examples("judge", 1, 1, 1)[0])
    assert answer[-1] == tokenizer.token_to_id("<|im_end|>")


def test_the_batches_of_a_step_depend_on_seed_and_step_only(tokenizer):
    first, second, other = (batches.generate_step(0, step) for step in (7, 7, 8))
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0].ids, other[0].ids)


def test_padding_has_no_weight(tokenizer):
    for batch in batches.generate_step(0, 0):
        assert not batch.weights[batch.ids == 0].any() or (batch.ids[batch.weights > 0] == 0).mean() < 0.01
        assert set(np.unique(batch.weights)) == {0.0, np.float32(batches.PROMPT_LOSS_WEIGHT), 1.0}


def test_long_and_short_examples_are_in_different_batches(tokenizer):
    short, long = batches.generate_step(0, 0)[:2]
    assert short.ids.shape[1] < long.ids.shape[1]
    assert all(row.any() for row in long.weights[:, short.ids.shape[1] :])


def test_batches_are_generated_only_a_few_steps_ahead(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    submitted = []

    class CountingPool(ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            submitted.append(args)
            return super().submit(*args, **kwargs)

    monkeypatch.setattr(batches, "ProcessPoolExecutor", CountingPool)
    steps: Any = batches.generate_steps(TOKENIZER, 0, range(1_000), {"judge": (BatchSize(2, 176),)})
    next(steps)
    next(steps)
    steps.close()
    assert len(submitted) < 10
