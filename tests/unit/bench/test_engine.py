"""The benchmark of the portable engine alone."""

import pytest

from llmstack.bench.engine import EngineWorkload, measure_engine, measure_rounds
from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.loader import load_model


@pytest.fixture(scope="module")
def model():
    return load_model(DEFAULT_RELEASE_DIR / "engine")


@pytest.mark.parametrize(("concurrency", "prompt_tokens"), [(4, 300), (1, 4)])
def test_the_decode_rate_counts_from_the_end_of_the_last_prefill(model, concurrency, prompt_tokens):
    row = measure_engine(model, EngineWorkload(concurrency, prompt_tokens, completion_tokens=6))
    assert row.decode_tokens_per_s > 0
    assert row.first_ttft_ms <= row.last_ttft_ms


def test_there_is_no_decode_rate_if_nothing_was_left_to_decode(model):
    assert measure_engine(model, EngineWorkload(1, 4, completion_tokens=1)).decode_tokens_per_s is None


def test_rounds_give_one_row_per_workload_and_report_each_measurement(model):
    workloads, measured = [EngineWorkload(1, 4, 2), EngineWorkload(2, 4, 2)], []
    rows = measure_rounds(model, workloads, 2, lambda: measured.append(1))
    assert [row.concurrency for row in rows] == [1, 2]
    assert len(measured) == 3 * len(workloads)
