"""The engine's own benchmark: no rate from nothing, and errors in one sentence."""

import pytest
from typer.testing import CliRunner

from llmstack.bench.engine import run
from llmstack.cli.bench.app import app
from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.loader import DEVICE, load_model


@pytest.fixture(scope="module")
def model():
    return load_model(DEFAULT_RELEASE_DIR / "engine")


@pytest.mark.parametrize(("concurrency", "prompt_tokens"), [(4, 300), (1, 4)])
def test_tokens_are_counted_from_when_the_last_prompt_is_in(model, concurrency, prompt_tokens):
    row = run(model, concurrency, prompt_tokens, completion_tokens=6)
    assert row.decode_tokens_per_s > 0
    assert row.first_ttft_ms <= row.last_ttft_ms


def test_there_is_no_rate_where_nothing_was_left_to_decode(model):
    assert run(model, 1, 4, completion_tokens=1).decode_tokens_per_s is None


def test_a_release_without_an_engine_is_named(tmp_path):
    result = CliRunner().invoke(app, ["engine", "--release", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "none/engine holds no config.json" in result.stderr


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(DEVICE, "sesame")
    result = CliRunner().invoke(app, ["engine"])
    assert result.exit_code == 2
    assert "LLMSTACK_ENGINE_DEVICE is 'sesame'" in result.stderr
