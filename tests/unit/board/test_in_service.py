"""The release in service is judged by the gates when it was promoted, and is red only for what is wrong now."""

import html
import re
import time
from contextlib import closing
from pathlib import Path

import pytest

from llm_policy.release.release import Release
from llmstack.release.change import COMPLETED, PROMOTION, ChangeRequest, ChangeResult, ReleaseRef
from llmstack.release.change_events import promotion_event
from llmstack.release.evidence import SMOKE
from llmstack.release.journal import ReleaseJournal
from tests.board_client import alert, live_board
from tests.board_releases import SLICE, write_run, write_store


@pytest.fixture
def board(tmp_path):
    write_store(tmp_path / "artifacts")
    with live_board(tmp_path, tmp_path / "artifacts") as live, closing(live.log_in(live.add("Ada"))) as client:
        live.client = client
        yield live


def promote(board, state_dir: Path, *, reason: str = "", overridden: tuple[str, ...] = ()):
    """`good`, which is in service, is promoted over `bad`."""
    journal = ReleaseJournal(state_dir)
    source, target = (ReleaseRef.of(Release.open(board.settings.store.directory(name))) for name in ("bad", "good"))
    request = ChangeRequest(PROMOTION, Path("current"), source, target, reason=reason, overridden=overridden)
    change = journal.request(request, time.time_ns())
    journal.end(ChangeResult(change, COMPLETED), time.time_ns())
    return change


def page(board, path: str = "/releases/good") -> str:
    return html.unescape(board.client.get(path).text)


def verdict_class(board) -> str:
    return re.search(r'class="verdict (\w+)"', page(board))[1]


def row(board) -> str:
    return page(board, "/").split("<tbody>")[1].split("</tr>")[0]


def test_a_promoted_release_has_passed_its_gates_whatever_a_promotion_would_need_today(board):
    promote(board, board.settings.state_dir)
    assert "It had passed every gate when it was promoted at " in page(board)
    assert "What a promotion would need today: 1" in page(board)
    assert verdict_class(board) == "noted"
    assert "✔ passed every gate when promoted" in row(board)
    assert "✘" not in row(board)


def test_so_it_is_when_only_the_event_is_known(board):
    change = promote(board, board.directory / "elsewhere")
    assert "No promotion of it is on record here" in page(board)
    assert board.send(promotion_event(change, time.time_ns()).body).status_code == 200
    assert "It had passed every gate when it was promoted at " in page(board)


def test_an_override_is_shown_with_what_was_missing(board):
    promote(board, board.settings.state_dir, reason="incident 4711", overridden=("smoke: missing",))
    assert "with an override: incident 4711" in page(board)
    assert '<li class="free">smoke: missing</li>' in page(board)
    assert "promoted with an override" in row(board)
    assert "passed every gate" not in row(board)


def test_a_release_that_was_only_linked_is_not_red(board):
    assert verdict_class(board) == "noted"
    assert "no promotion on record" in row(board)
    assert "✘" not in row(board)


def test_an_open_alert_and_a_run_that_failed_since_are_red(board):
    promote(board, board.settings.state_dir)
    release = Release.open(board.settings.store.directory("good"))
    board.send(alert("engine_unhealthy", engine_hash=release.manifest.engine.hash))
    assert verdict_class(board) == "bad"
    assert "✘ open alert engine_unhealthy" in row(board)
    write_run(release, SMOKE, {**SLICE, "faults": ["wrong"]})
    assert '<li class="free">smoke failed</li>' in page(board)
    assert "✘ smoke failed" in row(board)


def test_a_candidate_without_its_evidence_is_still_red(board):
    assert 'class="verdict bad"' in page(board, "/releases/bad")
    assert "✘ not ready" in page(board, "/")
