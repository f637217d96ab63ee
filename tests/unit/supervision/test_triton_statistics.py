"""Requests in flight according to Triton's counts."""

from collections.abc import Iterator

import httpx
import pytest

from llmstack.supervision.triton_statistics import RequestCounts, StatisticsReader, TritonStatistics
from tests.unit.supervision.scripted_triton import ScriptedTriton


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with ScriptedTriton() as scripted:
        yield scripted


@pytest.fixture
def reader(triton: ScriptedTriton) -> Iterator[StatisticsReader]:
    made = StatisticsReader(f"http://127.0.0.1:{triton.port}", {})
    yield made
    made.close()


def test_counts_are_read_by_model(triton, reader):
    triton.calls = {"preprocess": (7, 1), "tensorrt_llm": (6, 2), "postprocess": (4, 3), "ensemble": (4, 6)}
    statistics = reader.read()
    assert statistics == TritonStatistics(
        RequestCounts(7, 1), RequestCounts(6, 2), RequestCounts(4, 3), RequestCounts(4, 6)
    )
    assert statistics.num_failed_after_admission == 5


def test_a_model_that_is_not_loaded_has_no_requests(reader):
    assert reader.read() == TritonStatistics()


def test_the_counts_of_a_model_that_is_loaded_anew_go_on(triton, reader):
    triton.calls = {"preprocess": (7, 1), "ensemble": (4, 6), "postprocess": (4, 0)}
    reader.read()
    with reader.reloading("preprocess"):
        triton.calls = {"preprocess": (0, 0), "ensemble": (0, 0), "postprocess": (4, 0)}
    triton.calls = {"preprocess": (2, 1), "ensemble": (1, 2), "postprocess": (5, 0)}
    statistics = reader.read()
    assert (statistics.preprocess, statistics.ensemble) == (RequestCounts(9, 2), RequestCounts(5, 8))
    assert statistics.postprocess == RequestCounts(5, 0)


def test_counts_that_are_read_during_a_reload_count_once(triton, reader):
    triton.calls = {"preprocess": (7, 0)}
    with reader.reloading("preprocess"):
        triton.calls = {"preprocess": (9, 0)}
        assert reader.read().preprocess == RequestCounts(9, 0)
        triton.calls = {"preprocess": (1, 0)}
        assert reader.read().preprocess == RequestCounts(10, 0)
    assert reader.read().preprocess == RequestCounts(10, 0)


def test_requests_in_flight_are_those_that_began_and_did_not_end():
    # a failed request counts twice on the ensemble
    assert TritonStatistics(preprocess=RequestCounts(10, 0), ensemble=RequestCounts(6, 2)).max_in_flight == 3


def test_requests_in_flight_are_never_negative():
    assert TritonStatistics(preprocess=RequestCounts(1, 0), ensemble=RequestCounts(2, 0)).max_in_flight == 0


def test_an_error_status_is_raised(reader):
    reader._client = httpx.Client(
        base_url="http://triton", transport=httpx.MockTransport(lambda request: httpx.Response(403))
    )
    with pytest.raises(httpx.HTTPStatusError):
        reader.read()


def test_before_an_engine_that_only_streams_its_answers_are_the_progress_and_the_ledger_knows_the_rest(triton):
    triton.calls = {"ensemble_stream": (9, 1), "tensorrt_llm": (6, 2)}
    reader = StatisticsReader(f"http://127.0.0.1:{triton.port}", {}, "ensemble_stream")
    statistics = reader.read()
    reader.close()
    assert statistics.ensemble.num_succeeded == 6
    assert (statistics.max_in_flight, statistics.num_failed_after_admission) == (0, 0)
