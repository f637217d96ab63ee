"""Benchmarks on a live server."""

import json

import pytest
from typer.testing import CliRunner

from engine_process.engines.echo import TOKEN_INTERVAL
from llm_policy.release.release import Release
from llmstack.bench.load import LoadError, Workload, measure_load
from llmstack.bench.stream_load import stream_load
from llmstack.bench.stream_overhead import BASELINE_STREAMS, PASS_STREAM, WAYS, StreamPlan, measure_stream_overhead
from llmstack.bench.stream_rows import measure_stream_row
from llmstack.cli.app import app
from llmstack.client.ensemble_client import release_headers
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.process import TritonServer
from tests.soak import ONLY_IN_SOAK


def test_a_load_measures_what_clients_receive_and_the_policys_share_of_the_time(server):
    replies = []
    workload = Workload(
        lambda number: {"text_input": f"{number}. Order 4711", "max_tokens": 8, "schema_id": "order"},
        is_guided=True,
        concurrency=2,
        num_requests=5,
    )
    headers = release_headers(Release.open(DEFAULT_RELEASE_DIR))
    row = measure_load(server, headers, workload, lambda: replies.append(1))
    assert (row.guided, row.concurrency, row.num_requests, len(replies)) == (True, 2, 5, 5)
    assert 1 <= row.completion_tokens <= 8
    assert 0 < row.policy_share < 1
    assert row.ttft_ms_p50 <= row.ttft_ms_max <= row.latency_ms_max


@ONLY_IN_SOAK
def test_streams_through_the_policy_are_measured_beside_those_that_pass_through():
    plan = StreamPlan((1, 2), token_interval_ms=1.0, completion_tokens=8, rounds=2)
    started = []
    options = {TOKEN_INTERVAL: str(plan.token_interval_ms)}
    with TritonServer(engine="echo", engine_options=options, extra_model_repositories=[BASELINE_STREAMS]) as live:
        rows = list(measure_stream_overhead(live, Release.open(DEFAULT_RELEASE_DIR), plan, started.append))
    assert [(row.way, row.concurrency) for row in rows] == [(way, number) for number in (1, 2) for way in WAYS]
    assert len(started) == plan.num_measurements
    for row in rows:
        assert row.num_streams == 16
        # Chunks may join, and an end may come alone.
        assert 8 / 9 <= row.tokens_per_chunk <= 8
        assert row.inter_token_ms_p50 <= row.inter_token_ms_p99
    assert all((row.first_token_later_ms, row.inter_token_ratio) == (0, 1) for row in rows if row.way == PASS_STREAM)


def test_a_row_of_streams_has_what_clients_see_and_what_the_engine_counts(server):
    workload = Workload(
        lambda number: {"text_input": f"{number}. Order 4711", "max_tokens": 8, "schema_id": "order"},
        is_guided=True,
        concurrency=2,
        num_requests=5,
    )
    row = measure_stream_row(server, release_headers(Release.open(DEFAULT_RELEASE_DIR)), workload)
    assert (row.guided, row.concurrency, row.num_requests) == (True, 2, 5)
    assert 1 <= row.completion_tokens <= 8
    assert 0 < row.first_token_outside_engine_ms_p50 < row.ttft_ms_max <= row.latency_ms_max


def test_a_stream_that_the_policy_refuses_ends_the_load_with_its_error(server):
    workload = Workload(lambda number: {"text_input": "Order"}, is_guided=False, concurrency=2, num_requests=4)
    with pytest.raises(LoadError, match="missing_header"):
        stream_load(server, {}, workload)


@ONLY_IN_SOAK
def test_the_openai_front_end_is_measured_beside_grpc_and_with_many_streams():
    done = CliRunner().invoke(app, ["bench", "openai", "--requests", "5", "--rounds", "1", "--streams", "24", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["streams"]["num_whole"] == found["streams"]["num_streams"] == 24
    assert found["requests"]["openai_ms_p50"] > 0
