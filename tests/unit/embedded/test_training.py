"""Training: the tokens are the ensemble's, the same seed gives the same batches, a stopped training goes on alike."""

import json

import numpy as np
import pytest

from embedded_model import batches
from embedded_model.batches import Batch, Rows
from embedded_model.examples import held_out_examples
from llm_policy.release.manifest import TASKS
from llm_policy.text.tokenizer import Tokenizer as PolicyTokenizer
from llmstack.paths import DEFAULT_RELEASE_DIR

TOKENIZER = DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"
FEW_ROWS = {"judge": (Rows(2, 176),)}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    batches.use_tokenizer(str(TOKENIZER))
    return Tokenizer.from_file(str(TOKENIZER))


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_has_the_token_ids_that_the_ensemble_gives_it(tokenizer, task):
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


def test_an_answer_ends_with_the_token_that_ends_a_turn(tokenizer):
    _, answer = batches.encode_example(tokenizer, held_out_examples("judge", 1, 1, 1)[0])
    assert answer[-1] == tokenizer.token_to_id("<|im_end|>")


def test_a_steps_batches_depend_on_seed_and_step_alone(tokenizer):
    once, again, other = (batches.make_step(0, step) for step in (7, 7, 8))
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0].ids, other[0].ids)


def test_only_what_stands_in_a_row_has_weight(tokenizer):
    for batch in batches.make_step(0, 0):
        assert not batch.weights[batch.ids == 0].any() or (batch.ids[batch.weights > 0] == 0).mean() < 0.01
        assert set(np.unique(batch.weights)) == {0.0, np.float32(batches.PROMPT_LOSS_SHARE), 1.0}


def test_long_and_short_examples_go_to_batches_of_their_own(tokenizer):
    short, long = batches.make_step(0, 0)[:2]
    assert short.ids.shape[1] < long.ids.shape[1]
    assert all(row.any() for row in long.weights[:, short.ids.shape[1] :])


def test_no_more_batches_are_made_than_a_slow_training_needs_soon(monkeypatch):
    monkeypatch.setattr(batches.os, "cpu_count", lambda: 3)
    asked = []

    class CountingPool(batches.ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            asked.append(args)
            return super().submit(*args, **kwargs)

    monkeypatch.setattr(batches, "ProcessPoolExecutor", CountingPool)
    steps = batches.step_batches(TOKENIZER, 0, range(1_000), FEW_ROWS)
    next(steps)
    next(steps)
    steps.close()
    assert len(asked) < 10


# From here on with torch.


@pytest.fixture(scope="module")
def training():
    return pytest.importorskip("embedded_model.training", reason="torch is not installed")


@pytest.fixture
def small_trainer(training, tokenizer):
    from embedded_model.release import model_config
    from embedded_model.weights import Architecture

    return lambda num_steps: training.Trainer(
        model_config(tokenizer, Architecture(16, 1, 2, 1, 8, 32)), 0, num_steps, FEW_ROWS
    )


@pytest.fixture
def in_this_process(monkeypatch, training):
    """Batches without processes of their own, which take seconds to start."""

    def make(path, seed, steps, rows):
        return (batches.make_step(seed, step, rows) for step in steps)

    monkeypatch.setattr(training, "step_batches", make)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing(training):
    rates = [training._rate(step, 1_000) for step in range(1_000)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4


def test_a_few_steps_on_a_cpu_lower_the_loss(small_trainer, in_this_process):
    trainer = small_trainer(12)
    losses = [trainer.progress().loss for _ in trainer.run(TOKENIZER)]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.05
    assert "lm_head.weight" not in trainer.weights()


def test_after_the_first_step_time_and_memory_are_known(small_trainer, in_this_process):
    trainer = small_trainer(3)
    next(trainer.run(TOKENIZER))
    assert trainer.progress().memory_bytes > 2**20
    assert trainer.seconds_left() > 0


def test_a_stopped_training_goes_on_to_the_same_weights(small_trainer, in_this_process, tmp_path):
    import torch

    whole, first, second = small_trainer(4), small_trainer(4), small_trainer(4)
    for _ in whole.run(TOKENIZER):
        pass
    for step in first.run(TOKENIZER):
        if step == 2:
            break
    torch.save(first.state(), tmp_path / "state.pt")
    second.resume(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in second.run(TOKENIZER):
        pass
    assert (second.step, second.num_tokens, second.data_sha256) == (whole.step, whole.num_tokens, whole.data_sha256)
    assert all(torch.equal(ours, whole.weights()[name]) for name, ours in second.weights().items())


def test_a_state_of_another_training_is_refused(small_trainer, in_this_process):
    trainer = small_trainer(2)
    next(trainer.run(TOKENIZER))
    with pytest.raises(ValueError, match="--steps 2"):
        small_trainer(3).resume(trainer.state())


def test_rows_taken_a_few_at_a_time_give_the_gradient_of_all(training, small_trainer, tokenizer, monkeypatch):
    gradients = []
    ids, weights = batches.make_step(0, 0, {"judge": (Rows(4, 176),)})[0]
    for num_rows in (1, 4):
        monkeypatch.setattr(training, "_CPU_ROWS", num_rows)
        trainer = small_trainer(1)
        trainer._add_gradient(Batch(ids, weights), 1)
        gradients.append(trainer._model.model.embed_tokens.weight.grad)
    assert np.allclose(gradients[0], gradients[1], atol=3e-3 * float(gradients[1].abs().max()) + 1e-6)


def test_ctrl_c_keeps_the_state_and_a_resumed_training_ends(monkeypatch, training, in_this_process, tmp_path):
    import os
    import signal

    from typer.testing import CliRunner

    from embedded_model import cli as commands
    from embedded_model import train_command
    from embedded_model.weights import Architecture

    monkeypatch.setattr(train_command, "TRAINED", Architecture(16, 1, 2, 1, 8, 32))
    monkeypatch.setattr(
        train_command, "Trainer", lambda config, seed, steps: training.Trainer(config, seed, steps, FEW_ROWS)
    )
    take_step = training.Trainer._take_step

    def stop_in_the_second(trainer, batches):
        take_step(trainer, batches)
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training.Trainer, "_take_step", stop_in_the_second)
    command = ["train", "--output", str(tmp_path / "new"), "--steps", "4", "--source-commit", "abc"]
    stopped = CliRunner().invoke(commands.app, command)
    assert stopped.exit_code == commands.STOPPED, stopped.output
    assert "step 1 of 4" in stopped.stderr
    assert "GiB" in stopped.stderr
    assert not (tmp_path / "new" / "training.json").exists()
    ended = CliRunner().invoke(commands.app, [*command, "--resume"])
    assert ended.exit_code == 0, ended.output
    record = json.loads((tmp_path / "new" / "training.json").read_bytes())
    assert (record["steps"], record["source_commit"]) == (4, "abc")
    assert not (tmp_path / "new" / "state.pt").exists()


def test_resuming_without_a_state_is_refused(training, tmp_path):
    from typer.testing import CliRunner

    from embedded_model import cli as commands

    refused = CliRunner().invoke(commands.app, ["train", "--output", str(tmp_path), "--resume"])
    assert refused.exit_code == 2
    assert "--resume needs one with a state" in refused.stderr
