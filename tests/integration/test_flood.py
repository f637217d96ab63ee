"""A flood of requests whose senders can't name the engine, on a live server."""

import pytest

from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.release.release import Release
from llmstack.bench.flood import flood_headers, measure_flood


@pytest.mark.parametrize("is_mixed", [False, True])
def test_a_flood_without_valid_headers_grows_the_ledger_by_less_than_50_megabytes_a_day(paced_server, is_mixed):
    engine = Release.open(paced_server.release_dir).manifest.engine
    headers = flood_headers(engine.hash, engine.quantisation, is_mixed=is_mixed)
    found = measure_flood(paced_server.http_url, paced_server.state_dir, headers, seconds=1, num_connections=4)
    assert found.num_requests > 20
    num_codes = 5 if is_mixed else 1
    assert found.num_counts <= num_codes * found.num_minutes
    assert found.num_stored_rows <= SAMPLE_ROWS * num_codes * found.num_minutes
    assert found.bytes_per_day < 50e6
