"""`train`: Ctrl-C saves the state, and --resume continues from it."""

import json
import os
import signal

import pytest
from typer.testing import CliRunner

from embedded_model.cli.app import STOPPED, app
from embedded_model.training import run, trainer
from tests.unit.embedded_model.training.small_trainer import FEW_ROWS, TINY, generate_in_this_process


@pytest.mark.slow
def test_ctrl_c_saves_the_state_and_a_resumed_training_finishes(monkeypatch, tmp_path):
    generate_in_this_process(monkeypatch)
    monkeypatch.setattr(run, "TRAINED", TINY)
    monkeypatch.setattr(run, "Trainer", lambda config, seed, steps: trainer.Trainer(config, seed, steps, FEW_ROWS))
    train_step = trainer.Trainer._train_step

    def interrupt_second_step(self, batches):
        train_step(self, batches)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(trainer.Trainer, "_train_step", interrupt_second_step)
    command = ["train", "--output", str(tmp_path / "new"), "--steps", "4", "--source-commit", "abc"]
    stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code == STOPPED, stopped.output
    assert "step 1 of 4" in stopped.stderr
    assert "GiB" in stopped.stderr
    assert not (tmp_path / "new" / "training.json").exists()
    finished = CliRunner().invoke(app, [*command, "--resume"])
    assert finished.exit_code == 0, finished.output
    record = json.loads((tmp_path / "new" / "training.json").read_bytes())
    assert (record["steps"], record["source_commit"]) == (4, "abc")
    assert not (tmp_path / "new" / "state.pt").exists()


def test_resuming_without_a_state_is_rejected(tmp_path):
    rejected = CliRunner().invoke(app, ["train", "--output", str(tmp_path), "--resume"])
    assert rejected.exit_code == 2
    assert "--resume needs one with a saved state" in rejected.stderr
