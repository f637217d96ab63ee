"""Training lowers the loss, and a resumed training reaches the same weights as an uninterrupted one."""

import numpy as np
import pytest
import torch

from embedded_model.training import batches, trainer
from embedded_model.training.batches import Batch, BatchSize
from tests.unit.embedded_model.training.small_trainer import TOKENIZER, generate_in_this_process, small_trainer


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    generate_in_this_process(monkeypatch)


def test_the_learning_rate_rises_to_its_peak_and_decays_to_zero():
    rates = [trainer.learning_rate_scale(step, 1_000) for step in range(1_000)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4


def test_a_few_steps_on_a_cpu_lower_the_loss():
    small = small_trainer(12)
    losses = [small.progress().loss for _ in small.run(TOKENIZER)]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.05
    assert "lm_head.weight" not in small.weights()


def test_time_and_memory_are_known_after_the_first_step():
    small = small_trainer(3)
    next(small.run(TOKENIZER))
    assert small.progress().peak_memory_bytes > 2**20
    assert small.seconds_left() > 0


def test_a_resumed_training_reaches_the_same_weights(tmp_path):
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
    assert all(torch.equal(tensor, whole.weights()[name]) for name, tensor in second.weights().items())


def test_a_state_of_another_training_is_rejected():
    small = small_trainer(2)
    next(small.run(TOKENIZER))
    with pytest.raises(ValueError, match="--steps 2"):
        small_trainer(3).resume(small.state())


def test_micro_batches_give_the_gradient_of_the_whole_batch(monkeypatch):
    gradients = []
    ids, weights = batches.generate_step(0, 0, {"judge": (BatchSize(4, 176),)})[0]
    for num_rows in (1, 4):
        monkeypatch.setattr(trainer, "_CPU_ROWS", num_rows)
        small = small_trainer(1)
        small._accumulate_gradient(Batch(ids, weights), 1)
        gradients.append(small._model.model.embed_tokens.weight.grad)
    assert np.allclose(gradients[0], gradients[1], atol=3e-3 * float(gradients[1].abs().max()) + 1e-6)
