"""A change is performed in its order, taken back when its target fails, and made right after a crash at any step."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from llmstack.release import journal as steps
from llmstack.release.journal import ChangeUnderWay, ReleaseJournal, previous_release
from llmstack.release.store import ReleaseStore, point_link
from tests.releases import write_release
from tests.unit.release.switch_bench import RememberingService, make_switch, request

STEPS_OF_A_CHANGE = steps.STEPS[:-1]  # the last is that of taking one back


@pytest.fixture
def store(tmp_path):
    for name in ("old", "new"):
        manifest = write_release(tmp_path / "artifacts" / "releases" / name).directory / "manifest.json"
        manifest.write_text(manifest.read_text() + ("\n" if name == "new" else ""))  # another hash
    store = ReleaseStore(tmp_path / "artifacts")
    point_link(store.link, store.releases_dir / "old")
    return store


@pytest.fixture
def switch(tmp_path, store):
    return make_switch(tmp_path)


def ask(switch, store, kind=steps.PROMOTION, source="old", target="new"):
    return request(switch, kind, store.releases_dir / source, store.releases_dir / target)


def events(tmp_path: Path) -> list[dict]:
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.db")) as connection:
        rows = connection.execute("SELECT body FROM event ORDER BY sequence").fetchall()
        waiting = connection.execute("SELECT count(*) FROM delivery WHERE endpoint = 'readiness'").fetchone()[0]
    assert waiting == len(rows)
    return [json.loads(body) for (body,) in rows]


def test_a_promotion_goes_through_its_steps_and_is_told(tmp_path, store, switch):
    change, service = ask(switch, store), RememberingService()
    switch.take_up(service)
    assert service.calls == ["turn_away", "drain_requests", "halt", "adopt new", "up new"]
    assert store.in_service().name == "new"
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.step) == (steps.COMPLETED, "readiness_on")
    (event,) = events(tmp_path)
    assert event["type"] == "llm_release_promoted"
    data = event["data"]
    assert (data["from"], data["to"], data["override"]) == ("old", "new", "because")
    assert (data["engine_hash"], data["manifest_hash"]) == (change.target.engine_hash, change.target.manifest_hash)


def test_a_rollback_is_told_with_its_root_cause(tmp_path, store, switch):
    change = ask(switch, store, steps.ROLLBACK, "old", "new")
    switch.take_up(RememberingService())
    assert switch.journal.change(change.id).outcome == steps.COMPLETED
    (event,) = events(tmp_path)
    assert event["type"] == "llm_rollback_completed"
    data = event["data"]
    assert (data["root_cause"], data["from"], data["to"], data["automatic"]) == ("because", "old", "new", False)


def test_a_promotion_whose_target_fails_goes_back_by_itself(tmp_path, store, switch):
    change, service = ask(switch, store), RememberingService(broken=("new",))
    switch.take_up(service)
    assert service.calls[-3:] == ["halt", "adopt old", "up old"]
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (steps.UNDONE, "new is broken")
    (event,) = events(tmp_path)
    assert event["type"] == "llm_rollback_completed"
    data = event["data"]
    assert (data["root_cause"], data["from"], data["to"], data["automatic"]) == ("new is broken", "new", "old", True)


def test_when_neither_comes_up_the_service_goes_on_trying_the_old_one(tmp_path, store, switch):
    change, service = ask(switch, store), RememberingService(broken=("new", "old"))
    switch.take_up(service)
    assert service.calls[-1] == "recover"
    assert store.in_service().name == "old"
    assert switch.journal.change(change.id).outcome == steps.FAILED


def test_a_rollback_whose_target_fails_never_goes_back_to_what_was_left(store, switch):
    change, service = ask(switch, store, steps.ROLLBACK), RememberingService(broken=("new",))
    switch.take_up(service)
    assert service.calls[-1] == "recover"
    assert store.in_service().name == "new"
    assert switch.journal.change(change.id).outcome == steps.FAILED


def test_a_target_that_changed_after_the_request_is_refused_before_anything_stops(store, switch):
    change, service = ask(switch, store), RememberingService()
    (store.releases_dir / "new" / "engine" / "rank0.engine").write_bytes(b"another")
    switch.take_up(service)
    assert service.calls == []
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert ended.outcome == steps.REFUSED
    assert "engine.hash" in ended.detail


def test_there_is_one_change_at_a_time(store, switch):
    ask(switch, store)
    with pytest.raises(ChangeUnderWay):
        ask(switch, store)


@pytest.mark.parametrize("kind", [steps.PROMOTION, steps.ROLLBACK])
@pytest.mark.parametrize("step", STEPS_OF_A_CHANGE)
def test_what_a_kill_left_at_any_step_is_made_right(tmp_path, store, switch, kind, step):
    change = ask(switch, store, kind)
    kill(tmp_path, step, broken="none")
    expected = "new" if kind == steps.ROLLBACK or step == "readiness_on" else "old"
    settled = switch.settle()
    if kind == steps.PROMOTION and step == steps.REQUESTED:
        assert settled is None
    else:
        assert store.in_service().name == expected
        switch.conclude(settled)
    ended = switch.journal.change(change.id)
    assert store.in_service().name == expected
    assert ended.outcome == (steps.COMPLETED if expected == "new" else steps.UNDONE)
    assert switch.journal.open_change() is None
    told = [event["data"]["to"] for event in events(tmp_path)] if settled else []
    assert told == ([expected] if settled else [])


def test_what_a_kill_left_while_a_promotion_was_taken_back_is_taken_back(tmp_path, store, switch):
    change = ask(switch, store)
    kill(tmp_path, steps.UNDOING, broken="new")
    settled = switch.settle()
    switch.conclude(settled)
    assert store.in_service().name == "old"
    assert switch.journal.change(change.id).detail == "new is broken"


def test_a_settled_promotion_that_can_not_be_proven_is_taken_back_next_time(tmp_path, store, switch):
    change = ask(switch, store)
    kill(tmp_path, "readiness_on", broken="none")
    switch.give_up(switch.settle(), "it does not start")
    switch.conclude(switch.settle())
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (steps.UNDONE, "it does not start")


def test_a_rollback_leads_to_what_was_promoted_before(store, switch):
    journal, link = switch.journal, switch.link

    def back(current: str) -> str | None:
        side = previous_release(journal.changes(), link, str(store.releases_dir / current))
        return side.name if side else None

    assert back("old") is None
    ask(switch, store)
    switch.take_up(RememberingService(broken=("new",)))
    assert back("old") is None
    ask(switch, store)
    switch.take_up(RememberingService())
    assert back("new") == "old"
    ask(switch, store, steps.ROLLBACK, "new", "old")
    switch.take_up(RememberingService())
    assert back("old") is None
    assert [change.outcome for change in journal.changes()] == ["undone", "completed", "completed"]


def test_a_journal_that_is_not_there_yet_is_empty(tmp_path):
    journal = ReleaseJournal(tmp_path / "nowhere")
    assert journal.open_change() is None
    assert journal.changes() == []


def kill(directory: Path, step: str, broken: str) -> None:
    """A process takes the open change up, and is killed right after `step` is written."""
    if step == steps.REQUESTED:
        return
    command = [sys.executable, "-m", "tests.unit.release.switch_bench", str(directory), step, broken]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
