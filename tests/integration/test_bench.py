"""Benchmarks on a live server."""

import pytest

from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.release.release import Release
from llmstack.bench.flood import flood_headers, measure_flood
from llmstack.bench.load import Workload, measure_load
from llmstack.client.ensemble_client import release_headers
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.process import TritonServer


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


@pytest.mark.parametrize("is_mixed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_flood_without_valid_headers_grows_the_ledger_by_less_than_50_megabytes_a_day(tmp_path, is_mixed):
    engine = Release.open(DEFAULT_RELEASE_DIR).manifest.engine
    headers = flood_headers(engine.hash, engine.quantisation, is_mixed=is_mixed)
    with TritonServer(DEFAULT_RELEASE_DIR, engine="echo", state_dir=tmp_path) as server:
        found = measure_flood(server.http_url, tmp_path, headers, seconds=1, num_connections=4)
    assert found.num_requests > 20
    num_codes = 5 if is_mixed else 1
    assert found.num_counts <= num_codes * found.num_minutes
    assert found.num_stored_rows <= SAMPLE_ROWS * num_codes * found.num_minutes
    assert found.bytes_per_day < 50e6
