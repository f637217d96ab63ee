"""Clients' requests count as in flight for as long as their tokens may take."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.ledger import Ledger
from llm_policy.ledger.row_record import RowRecord
from llm_policy.release.manifest import Manifest
from llmstack.supervision.in_flight_requests import InFlightRequests
from tests.manifests import manifest as make_manifest

S = 1_000_000_000
START_NS = 1_000_000 * S
LONG, SHORT = 1_000, 8  # completion tokens


class RequestLedger(NamedTuple):
    """A ledger as the stubs write it, and its requests in flight; times are in seconds after the start."""

    ledger: Ledger
    in_flight: InFlightRequests
    manifest: Manifest

    def admit(self, max_tokens: int, at_s: float, is_canary: bool = False) -> int:
        price = self.manifest.prices.per_token
        entry = RowRecord(
            num_prompt_tokens=10,
            is_canary=is_canary,
            projected_nano_usd=price.cost(10, max_tokens),
            prompt_nano_usd=price.cost(10, 0),
        )
        ((admitted,),) = self.ledger.record([[entry]], START_NS + int(at_s * S))
        return admitted.ledger_id

    def answer(self, ledger_id: int, num_tokens: int, at_s: float, is_canary: bool = False) -> None:
        row = RowRecord(
            ledger_id=ledger_id, is_canary=is_canary, num_prompt_tokens=10, num_completion_tokens=num_tokens
        )
        assert self.ledger.settle([row], START_NS + int(at_s * S)) == [True]

    def has_any(self, at_s: float) -> bool:
        return self.in_flight.has_any(START_NS + int(at_s * S))


def open_request_ledger(directory: Path, **changes) -> Iterator[RequestLedger]:
    manifest = make_manifest(**changes)
    with closing(open_database(directory / FILE_NAME)) as connection:
        yield RequestLedger(
            Ledger(connection, manifest, "boot"), InFlightRequests(directory, manifest, "boot"), manifest
        )


@pytest.fixture
def requests(tmp_path: Path) -> Iterator[RequestLedger]:
    yield from open_request_ledger(tmp_path)


@pytest.fixture
def warm(requests: RequestLedger) -> RequestLedger:
    """A server whose canary took 0.8 s for 8 tokens."""
    requests.answer(requests.admit(SHORT, 0, is_canary=True), SHORT, 0.8, is_canary=True)
    return requests


def test_an_empty_ledger_has_no_request_in_flight(warm):
    assert not warm.has_any(1)


def test_canaries_do_not_count(warm):
    warm.admit(SHORT, 1, is_canary=True)
    assert not warm.has_any(2)


def test_a_request_counts_for_as_long_as_its_tokens_may_take(warm):
    warm.admit(LONG, 1)  # 0.1 s a token: 100 s
    assert warm.has_any(101)
    assert warm.has_any(300)
    assert not warm.has_any(1 + 10 + 4 * 100 + 1)


def test_a_short_request_counts_for_less_time(warm):
    warm.admit(SHORT, 1)
    assert warm.has_any(10)
    assert not warm.has_any(1 + 10 + 4 * 0.8 + 1)


def test_earlier_short_answers_do_not_shorten_the_time_of_a_long_request(warm):
    for number in range(5):
        warm.answer(warm.admit(SHORT, number), SHORT, number + 0.8)
    warm.admit(LONG, 6)
    assert warm.has_any(100)


def test_the_time_of_a_request_behind_others_begins_at_the_last_answer(warm):
    first, _ = warm.admit(SHORT, 1), warm.admit(SHORT, 1)
    warm.answer(first, SHORT, 61)
    assert warm.has_any(61 + 10)


def test_requests_of_an_earlier_server_start_do_not_count(warm, tmp_path):
    warm.admit(LONG, 1)
    assert not InFlightRequests(tmp_path, warm.manifest, "next boot").has_any(START_NS + 2 * S)


def test_before_the_first_answer_every_open_request_counts(requests):
    requests.admit(SHORT, 0)
    assert requests.has_any(500)


def test_with_free_tokens_a_request_may_take_as_many_as_the_manifest_allows(tmp_path):
    for requests in open_request_ledger(tmp_path, prices={"input_usd_per_million": 0.1, "output_usd_per_million": 0.0}):
        requests.answer(requests.admit(SHORT, 0, is_canary=True), SHORT, 0.8, is_canary=True)
        requests.admit(SHORT, 1)
        assert requests.has_any(requests.manifest.thresholds.max_tokens * 0.1)


def test_an_unreadable_ledger_counts_as_requests_in_flight(tmp_path, requests):
    assert InFlightRequests(tmp_path / "nowhere", requests.manifest, "boot").has_any(START_NS)
