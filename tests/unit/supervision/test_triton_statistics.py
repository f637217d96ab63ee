"""What Triton's counts say of requests under way."""

import httpx
import pytest

from llmstack.supervision.triton_statistics import CallCounts, TritonStatistics, read_statistics
from tests.unit.supervision.scripted_triton import ScriptedTriton


def test_counts_are_read_by_model():
    with ScriptedTriton() as triton, httpx.Client(base_url=f"http://127.0.0.1:{triton.port}") as client:
        triton.calls = {"preprocess": (7, 1), "tensorrt_llm": (6, 2), "postprocess": (4, 3), "ensemble": (4, 6)}
        statistics = read_statistics(client, {})
    assert statistics == TritonStatistics(CallCounts(7, 1), CallCounts(6, 2), CallCounts(4, 3), CallCounts(4, 6))
    assert statistics.num_dead == 5


def test_a_model_that_is_not_loaded_has_no_calls():
    with ScriptedTriton() as triton, httpx.Client(base_url=f"http://127.0.0.1:{triton.port}") as client:
        assert read_statistics(client, {}) == TritonStatistics()


def test_requests_under_way_are_those_that_began_and_did_not_end():
    # a failed call counts twice on the ensemble
    assert TritonStatistics(preprocess=CallCounts(10, 0), ensemble=CallCounts(6, 2)).max_in_flight == 3


def test_no_more_can_be_under_way_than_began():
    assert TritonStatistics(preprocess=CallCounts(1, 0), ensemble=CallCounts(2, 0)).max_in_flight == 0


def test_another_answer_than_statistics_is_an_error():
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403)

    client = httpx.Client(base_url="http://triton", transport=httpx.MockTransport(refuse))
    with pytest.raises(httpx.HTTPStatusError):
        read_statistics(client, {})
