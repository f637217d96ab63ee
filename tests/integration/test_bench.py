"""What the benchmarks measure, on the live server."""

from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llmstack.bench.load import measure
from llmstack.paths import DEFAULT_RELEASE_DIR

ENGINE = Release.open(DEFAULT_RELEASE_DIR).manifest.engine
HEADERS = {ENGINE_HASH: ENGINE.hash, QUANTISATION: ENGINE.quantisation}


def test_a_load_counts_what_clients_got_and_the_policys_share_of_the_time(server):
    answered = []
    row = measure(
        server,
        HEADERS,
        lambda number: {"text_input": f"{number}. Order 4711", "max_tokens": 8, "schema_id": "order"},
        True,
        concurrency=2,
        num_requests=5,
        on_answer=lambda: answered.append(1),
    )
    assert (row.guided, row.concurrency, row.num_requests, len(answered)) == (True, 2, 5, 5)
    assert 1 <= row.completion_tokens <= 8
    assert 0 < row.policy_share < 1
    assert row.ttft_ms_p50 <= row.ttft_ms_max <= row.latency_ms_max
