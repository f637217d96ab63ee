"""Requests in flight according to Triton's counts."""

import httpx
import pytest

from llmstack.supervision.triton_statistics import RequestCounts, TritonStatistics, read_statistics
from tests.unit.supervision.scripted_triton import ScriptedTriton


def test_counts_are_read_by_model():
    with ScriptedTriton() as triton, httpx.Client(base_url=f"http://127.0.0.1:{triton.port}") as client:
        triton.calls = {"preprocess": (7, 1), "tensorrt_llm": (6, 2), "postprocess": (4, 3), "ensemble": (4, 6)}
        statistics = read_statistics(client, {})
    assert statistics == TritonStatistics(
        RequestCounts(7, 1), RequestCounts(6, 2), RequestCounts(4, 3), RequestCounts(4, 6)
    )
    assert statistics.num_failed_after_admission == 5


def test_a_model_that_is_not_loaded_has_no_requests():
    with ScriptedTriton() as triton, httpx.Client(base_url=f"http://127.0.0.1:{triton.port}") as client:
        assert read_statistics(client, {}) == TritonStatistics()


def test_requests_in_flight_are_those_that_began_and_did_not_end():
    # a failed request counts twice on the ensemble
    assert TritonStatistics(preprocess=RequestCounts(10, 0), ensemble=RequestCounts(6, 2)).max_in_flight == 3


def test_requests_in_flight_are_never_negative():
    assert TritonStatistics(preprocess=RequestCounts(1, 0), ensemble=RequestCounts(2, 0)).max_in_flight == 0


def test_an_error_status_is_raised():
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403)

    client = httpx.Client(base_url="http://triton", transport=httpx.MockTransport(refuse))
    with pytest.raises(httpx.HTTPStatusError):
        read_statistics(client, {})
