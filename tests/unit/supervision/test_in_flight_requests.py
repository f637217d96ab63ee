"""Which calls of clients may still be under way: as long as their tokens may take, and no longer."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.ledger import Entry, Ledger, Settlement
from llm_policy.release.manifest import Manifest
from llmstack.supervision.in_flight_requests import InFlightRequests
from tests.manifests import manifest as make_manifest

S = 1_000_000_000
START_NS = 1_000_000 * S
LONG, SHORT = 1_000, 8  # completion tokens


class LedgerAccess(NamedTuple):
    """The ledger as the stubs write it, and what is to be judged by it; times are seconds after the start."""

    ledger: Ledger
    calls: InFlightRequests
    manifest: Manifest

    def admit(self, max_tokens: int, at_s: float, is_canary: bool = False) -> int:
        price = self.manifest.prices.per_token
        costs = {"projected_nano_usd": price.cost(10, max_tokens), "prompt_nano_usd": price.cost(10, 0)}
        entry = Entry(num_prompt_tokens=10, is_canary=is_canary, **costs)
        (((ledger_id,), _),) = self.ledger.enter([[entry]], START_NS + int(at_s * S))
        return ledger_id

    def answer(self, ledger_id: int, num_tokens: int, at_s: float, is_canary: bool = False) -> None:
        row = Settlement(ledger_id, "", "", "", "", is_canary, 10, num_tokens, 0, 0, ())
        assert self.ledger.settle([row], START_NS + int(at_s * S)) == [True]

    def may_wait(self, at_s: float) -> bool:
        return self.calls.may_wait(START_NS + int(at_s * S))


def make_books(directory: Path, **changes) -> Iterator[LedgerAccess]:
    manifest = make_manifest(**changes)
    with closing(open_database(directory / FILE_NAME)) as connection:
        yield LedgerAccess(
            Ledger(connection, manifest, "boot"), InFlightRequests(directory, manifest, "boot"), manifest
        )


@pytest.fixture
def books(tmp_path: Path) -> Iterator[LedgerAccess]:
    yield from make_books(tmp_path)


@pytest.fixture
def warm(books: LedgerAccess) -> LedgerAccess:
    """A server whose canary took 0.8 s for 8 tokens."""
    books.answer(books.admit(SHORT, 0, is_canary=True), SHORT, 0.8, is_canary=True)
    return books


def test_nobody_waits_in_an_empty_ledger(warm):
    assert not warm.may_wait(1)


def test_the_canarys_own_calls_do_not_count(warm):
    warm.admit(SHORT, 1, is_canary=True)
    assert not warm.may_wait(2)


def test_a_call_may_wait_as_long_as_its_tokens_take_and_is_then_taken_for_cancelled(warm):
    warm.admit(LONG, 1)  # 0.1 s a token: 100 s
    assert warm.may_wait(101)
    assert warm.may_wait(300)
    assert not warm.may_wait(1 + 10 + 4 * 100 + 1)


def test_a_short_call_is_taken_for_cancelled_sooner(warm):
    warm.admit(SHORT, 1)
    assert warm.may_wait(10)
    assert not warm.may_wait(1 + 10 + 4 * 0.8 + 1)


def test_short_answers_before_do_not_make_a_long_call_look_cancelled(warm):
    for number in range(5):
        warm.answer(warm.admit(SHORT, number), SHORT, number + 0.8)
    warm.admit(LONG, 6)
    assert warm.may_wait(100)


def test_calls_that_wait_behind_others_count_from_the_last_answer(warm):
    first, _ = warm.admit(SHORT, 1), warm.admit(SHORT, 1)
    warm.answer(first, SHORT, 61)
    assert warm.may_wait(61 + 10)


def test_calls_of_an_earlier_server_do_not_count(warm, tmp_path):
    warm.admit(LONG, 1)
    assert not InFlightRequests(tmp_path, warm.manifest, "next boot").may_wait(START_NS + 2 * S)


def test_before_anything_was_answered_every_open_call_counts(books):
    books.admit(SHORT, 0)
    assert books.may_wait(500)


def test_where_tokens_are_free_each_call_may_take_as_many_as_the_manifest_allows(tmp_path):
    for books in make_books(tmp_path, prices={"input_usd_per_million": 0.1, "output_usd_per_million": 0.0}):
        books.answer(books.admit(SHORT, 0, is_canary=True), SHORT, 0.8, is_canary=True)
        books.admit(SHORT, 1)
        assert books.may_wait(books.manifest.thresholds.max_tokens * 0.1)


def test_a_ledger_that_can_not_be_read_says_nothing_against_it(tmp_path, books):
    assert InFlightRequests(tmp_path / "nowhere", books.manifest, "boot").may_wait(START_NS)
