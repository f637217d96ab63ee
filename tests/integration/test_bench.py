"""The load benchmark on the live server."""

from llm_policy.release.release import Release
from llmstack.bench.load import Workload, measure_load
from llmstack.client.ensemble_client import release_headers
from llmstack.paths import DEFAULT_RELEASE_DIR


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
