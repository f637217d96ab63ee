"""A release that was rolled back is marked with the cause, and only sign-offs given since then count."""

import html
import re
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from llm_policy.release.release import Release
from llmstack.release.change import (
    COMPLETED,
    FAILED,
    PROMOTION,
    ROLLBACK,
    UNDONE,
    ChangeRequest,
    ChangeResult,
    ReleaseRef,
)
from llmstack.release.change_events import automatic_rollback_event, failure_event, promotion_event, rollback_event
from llmstack.release.journal import ReleaseJournal
from tests.board_client import live_board
from tests.board_releases import write_store

CAUSE = "judge scores <b>everything</b> 7"
FIELDS = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')


@pytest.fixture
def board(tmp_path):
    write_store(tmp_path / "artifacts")
    with live_board(tmp_path, tmp_path / "artifacts") as live, closing(live.log_in(live.add("Ada"))) as client:
        live.client, live.bearer = client, {"authorization": f"Bearer {live.add_reader()}"}
        yield live


def ref(board, name: str = "good") -> ReleaseRef:
    return ReleaseRef.of(Release.open(board.settings.store.directory(name)))


def record(board, kind: str, outcome: str, *, source: str = "bad", target: str = "bad", detail: str = "") -> None:
    """A change in the service's journal."""
    journal = ReleaseJournal(board.settings.state_dir)
    request = ChangeRequest(kind, Path("current"), ref(board, source), ref(board, target), reason=CAUSE)
    change = journal.request(request, time.time_ns())
    journal.advance(change, "load", time.time_ns())
    journal.end(ChangeResult(change, outcome, detail), time.time_ns())


def change(board, kind: str, source: str, target: str):
    """A change that is only in an event, as from a service on another machine."""
    journal = ReleaseJournal(board.directory / "elsewhere")
    request = ChangeRequest(kind, Path("current"), ref(board, source), ref(board, target), reason=CAUSE)
    opened = journal.request(request, time.time_ns())
    journal.end(ChangeResult(opened, COMPLETED), time.time_ns())
    return opened


def page(board, path: str = "/releases/good") -> str:
    return html.unescape(board.client.get(path).text)


def fields(board) -> dict[str, str]:
    found = FIELDS.findall(page(board))
    return dict(found)


def sign(board, data: dict[str, str] | None = None) -> int:
    return board.client.post("/releases/good/sign", data=data or fields(board)).status_code


def reviewers(board) -> list[str]:
    release = ref(board)
    hashes = {"engine_hash": release.engine_hash, "manifest_hash": release.manifest_hash}
    answer = httpx.get(f"{board.url}/api/signoffs", params=hashes, headers=board.bearer).json()
    return [each["reviewer"] for each in answer["signoffs"]]


def test_a_rollback_in_the_journal_marks_the_release_and_voids_its_sign_offs(board):
    assert sign(board) == 200
    assert reviewers(board) == ["Ada"]
    record(board, ROLLBACK, COMPLETED, source="good")
    assert reviewers(board) == []
    for path in ("/", "/releases/good"):
        assert f": {CAUSE}" in page(board, path)
        assert "✘ rolled back" in page(board, path)
    shown = page(board)
    assert "from before the rollback" in shown
    assert "2 more of 2 sign-offs, since it was rolled back" in shown
    assert sign(board) == 200  # without withdrawing the old sign-off first
    assert reviewers(board) == ["Ada"]
    assert "1 more of 2 sign-offs, since it was rolled back" in page(board)


def test_a_form_loaded_before_the_rollback_is_not_signed(board):
    seen = fields(board)
    record(board, ROLLBACK, COMPLETED, source="good")
    assert sign(board, seen) == 409
    del seen["rolled_back_ns"]
    assert sign(board, seen) == 409
    assert reviewers(board) == []


def test_the_event_of_a_rollback_is_enough(board):
    assert sign(board) == 200
    event = rollback_event(change(board, ROLLBACK, "good", "bad"), time.time_ns())
    assert board.send(event.body).status_code == 200
    assert reviewers(board) == []
    assert CAUSE in page(board)


@pytest.mark.parametrize("make", [automatic_rollback_event, failure_event])
def test_a_promotion_that_failed_counts_as_a_rollback(board, make):
    assert sign(board) == 200
    assert board.send(make(change(board, PROMOTION, "bad", "good"), "it does not start", time.time_ns()).body)
    assert reviewers(board) == []
    assert ": it does not start" in page(board)


@pytest.mark.parametrize("outcome", [UNDONE, FAILED])
def test_so_does_one_in_the_journal(board, outcome):
    assert sign(board) == 200
    record(board, PROMOTION, outcome, target="good", detail="it does not start")
    assert reviewers(board) == []
    assert ": it does not start" in page(board)


def test_a_rollback_whose_target_failed_names_the_root_cause(board):
    failed = failure_event(change(board, ROLLBACK, "good", "bad"), "bad is broken", time.time_ns())
    assert board.send(failed.body).status_code == 200
    assert f": {CAUSE}" in page(board)
    assert "✘ rolled back" not in page(board, "/releases/bad")


def test_a_release_promoted_again_is_no_longer_marked(board):
    record(board, ROLLBACK, COMPLETED, source="good")
    assert sign(board) == 200
    assert board.send(promotion_event(change(board, PROMOTION, "bad", "good"), time.time_ns()).body)
    assert "✘ rolled back" not in page(board)
    assert reviewers(board) == ["Ada"]


def test_a_rollback_of_another_release_changes_nothing(board):
    assert sign(board) == 200
    record(board, ROLLBACK, COMPLETED, source="bad", target="good")
    assert reviewers(board) == ["Ada"]
    assert "rolled back" not in page(board)
