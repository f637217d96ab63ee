"""The batch gate: it compares the queue delay of a full batch with the manifest's limit."""

from typing import Any

import pytest

from llmstack.bench.batch_gate import BatchGateResult
from llmstack.bench.load import LoadMeasurement

FIELDS: dict[str, Any] = dict.fromkeys(LoadMeasurement._fields, 1)
ONE_MORE = LoadMeasurement(**FIELDS | {"queue_delay_us_p99": 90_000.0})


def result(delay_us: float) -> BatchGateResult:
    return BatchGateResult(8, 2_500, LoadMeasurement(**FIELDS | {"queue_delay_us_p99": delay_us}), ONE_MORE)


@pytest.mark.parametrize(("delay_us", "passed"), [(2_499.0, True), (2_500.0, True), (2_500.1, False)])
def test_the_gate_passes_up_to_the_limit_whatever_one_request_more_costs(delay_us, passed):
    assert result(delay_us).passed is passed


def test_the_record_has_the_full_batch_and_one_request_more():
    record = result(400.0).record("embedded")
    assert (record["max_batch_size"], record["max_queue_delay_us"], record["engine"]) == (8, 2_500, "embedded")
    assert record["queue_delay_us_p99"] == 400.0
    assert record["one_more"]["queue_delay_us_p99"] == 90_000.0
