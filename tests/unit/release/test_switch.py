"""A change is performed in its order, taken back when its target fails, and made right after a crash at any step."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from llm_policy.release.release import Release
from llmstack.events.attempt_log import json_log
from llmstack.release import journal as steps
from llmstack.release.build_manifest import Build
from llmstack.release.journal import ChangeUnderWay, ReleaseJournal, previous_release
from llmstack.release.publish import publish
from llmstack.release.store import ReleaseStore, point_link
from llmstack.release.supersession import superseded_by
from llmstack.release.switch import Switch
from llmstack.supervision.phases import PHASES
from tests.releases import write_release
from tests.unit.release.switch_bench import FullJournal, RememberingService, make_switch, request

STEPS_OF_A_CHANGE = (*steps.BEFORE, *PHASES)


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


def follow(switch, store, kind, source, target):
    """RowInput for a change while another one is open, as the commands do."""
    sides = [steps.Side.of(Release.open(store.releases_dir / name)) for name in (source, target)]
    superseded = superseded_by(kind, "because", switch.journal.open_change(), 1)
    return switch.journal.request(kind, switch.link, *sides, 1, reason="because", superseded=superseded)


def events(tmp_path: Path) -> list[dict]:
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.db")) as connection:
        rows = connection.execute("SELECT body FROM event ORDER BY sequence").fetchall()
        waiting = connection.execute("SELECT count(*) FROM delivery WHERE endpoint = 'readiness'").fetchone()[0]
    assert waiting == len(rows)
    return [json.loads(body) for (body,) in rows]


def test_a_promotion_goes_through_its_steps_and_is_told(tmp_path, store, switch):
    change, service = ask(switch, store), RememberingService()
    switch.take_up(service)
    assert service.calls == ["mark_unready", "drain_requests", "halt", "adopt new", "up new"]
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
    left = switch.journal.change(change.id)
    assert (left.outcome, left.step) == (steps.OPEN, steps.RECOVERING)
    assert left.detail == "new is broken; and back in old: old is broken"
    assert not switch.is_wanted()


def test_a_promotion_is_told_as_taken_back_when_the_old_one_comes_up_later(tmp_path, store, switch):
    change = ask(switch, store)
    switch.take_up(RememberingService(broken=("new", "old"), recovers=True))
    assert switch.journal.change(change.id).outcome == steps.UNDONE
    (event,) = events(tmp_path)
    assert (event["type"], event["data"]["root_cause"]) == ("llm_rollback_completed", "new is broken")


def test_a_rollback_whose_target_fails_never_goes_back_to_what_was_left(store, switch):
    change, service = ask(switch, store, steps.ROLLBACK), RememberingService(broken=("new",))
    switch.take_up(service)
    assert service.calls[-1] == "recover"
    assert store.in_service().name == "new"
    left = switch.journal.change(change.id)
    assert (left.outcome, left.step, left.detail) == (steps.OPEN, steps.RECOVERING, "new is broken")


def test_a_rollback_that_succeeds_at_a_later_attempt_is_completed_and_told(tmp_path, store, switch):
    change = ask(switch, store, steps.ROLLBACK)
    switch.take_up(RememberingService(broken=("new",), recovers=True))
    assert switch.journal.change(change.id).outcome == steps.COMPLETED
    (event,) = events(tmp_path)
    assert (event["type"], event["data"]["to"]) == ("llm_rollback_completed", "new")


def test_what_goes_on_trying_is_given_up_for_whatever_is_asked_next(tmp_path, store, switch):
    tried = ask(switch, store, steps.ROLLBACK)
    switch.take_up(RememberingService(broken=("new",)))
    follow(switch, store, steps.PROMOTION, "new", "old")
    assert switch.is_wanted()
    switch.take_up(RememberingService())
    ended = switch.journal.change(tried.id)
    assert (ended.outcome, ended.detail) == (steps.FAILED, "new is broken; given up for a promotion")
    failure, promoted = events(tmp_path)
    assert (failure["type"], failure["data"]["kind"]) == ("llm_release_change_failed", "rollback")
    assert failure["data"]["cause"] == ended.detail
    assert promoted["type"] == "llm_release_promoted"


def test_a_rollback_takes_the_place_of_a_promotion_that_is_not_proven(tmp_path, store, switch):
    promotion = ask(switch, store)

    class Asked(RememberingService):
        def bring_up(self, on_phase, start_timeout_s):
            if self.served == "new":
                on_phase(steps.PHASES[0])
                follow(switch, store, steps.ROLLBACK, "new", "old")
                assert switch.is_wanted()
            super().bring_up(on_phase, start_timeout_s)

    service = Asked()
    switch.take_up(service)
    assert service.calls[-1] == "adopt new"
    assert switch.is_wanted()
    switch.take_up(service)
    assert service.calls[-3:] == ["halt", "adopt old", "up old"]
    assert store.in_service().name == "old"
    ended = switch.journal.change(promotion.id)
    assert (ended.outcome, ended.detail) == (steps.UNDONE, "taken back by a rollback: because")
    (event,) = events(tmp_path)
    assert (event["type"], event["data"]["automatic"]) == ("llm_rollback_completed", False)


def test_a_promotion_that_is_being_taken_back_is_not_taken_back_twice(tmp_path, store, switch):
    ask(switch, store)
    kill(tmp_path, steps.UNDOING, broken="new")
    assert superseded_by(steps.ROLLBACK, "because", switch.journal.open_change(), 0) is None
    with pytest.raises(ChangeUnderWay):
        follow(switch, store, steps.ROLLBACK, "new", "old")


@pytest.fixture
def full(tmp_path, store):
    return make_switch(tmp_path, FullJournal(tmp_path / "state"))


@pytest.mark.parametrize("step", steps.BEFORE[1:4])
def test_a_journal_that_can_not_be_written_before_the_stop_leaves_the_service_alone(tmp_path, store, full, step):
    change, service = ask(full, store), RememberingService()
    full.journal.full_at = step
    full.take_up(service)
    assert service.calls[-1] == "resume"
    assert "halt" not in service.calls
    assert "database or disk is full" in (tmp_path / "log").read_text()
    full.journal.full_at = steps.REQUESTED
    assert not full.is_wanted()
    full.journal.full_at = ""
    assert full.is_wanted()
    full.take_up(service)
    assert store.in_service().name == "new"
    assert full.journal.change(change.id).outcome == steps.COMPLETED


@pytest.mark.parametrize("step", [steps.SWITCH, *PHASES])
def test_a_journal_that_fills_up_later_gets_the_end_as_soon_as_it_can(tmp_path, store, full, step):
    change, service = ask(full, store), RememberingService()
    full.journal.full_at = step
    full.take_up(service)
    assert service.calls[-1] == "up new"
    assert not full.is_wanted()
    assert full.journal.change(change.id).is_open
    full.journal.full_at = ""
    assert not full.is_wanted()
    assert full.journal.change(change.id).outcome == steps.COMPLETED
    assert [event["type"] for event in events(tmp_path)] == ["llm_release_promoted"]


def test_a_fault_of_the_journal_is_said_once(tmp_path, store, full):
    ask(full, store)
    full.journal.full_at = steps.REQUESTED
    for _ in range(5):
        assert not full.is_wanted()
    assert (tmp_path / "log").read_text().count("release_change_waits") == 1


def test_a_promotion_from_a_broken_release_that_was_killed_ends_as_failed(tmp_path, store, switch):
    change = ask(switch, store)
    kill(tmp_path, "start", broken="none")
    (store.releases_dir / "old" / "manifest.json").write_text("{")
    settled = switch.settle()
    switch.give_up(settled, "old is no release")
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (steps.FAILED, "interrupted at the step start; old is no release")
    assert [event["type"] for event in events(tmp_path)] == ["llm_release_change_failed"]
    assert switch.journal.open_change() is None


def test_a_live_promotion_whose_source_broke_meanwhile_ends_as_failed(tmp_path, store, switch):
    change, service = ask(switch, store), RememberingService(broken=("new",))
    (store.releases_dir / "old" / "manifest.json").write_text("{")
    switch.take_up(service)
    assert service.calls[-1] == "recover"
    assert switch.journal.change(change.id).outcome == steps.FAILED
    assert [event["type"] for event in events(tmp_path)] == ["llm_release_change_failed"]


@pytest.mark.parametrize("step", [steps.UNDOING, "rollback"])
def test_what_was_interrupted_and_can_not_be_proven_is_in_nobodys_way(tmp_path, store, switch, step):
    if step == "rollback":
        ask(switch, store, steps.ROLLBACK)
        kill(tmp_path, "canary", broken="none")
    else:
        ask(switch, store)
        kill(tmp_path, step, broken="new")
    switch.give_up(switch.settle(), "it does not start")
    assert switch.journal.changes()[-1].outcome == steps.FAILED
    ask(switch, store)


def test_an_interrupted_change_of_another_link_is_led_back_and_ends(tmp_path, store, switch):
    change = ask(switch, store)
    kill(tmp_path, "start", broken="none")
    other = Switch(switch.journal, tmp_path / "elsewhere" / "current", json_log((tmp_path / "log").open("a")))
    assert other.settle() is None
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert ended.outcome == steps.FAILED
    assert "leads to old, which was not proven again" in ended.detail


def test_an_interrupted_change_whose_link_can_not_be_switched_ends(tmp_path, store, switch):
    ask(switch, store)
    kill(tmp_path, "start", broken="none")
    store.link.unlink()
    store.link.mkdir()
    assert switch.settle() is None
    assert "is a directory" in switch.journal.changes()[-1].detail


def test_a_link_that_can_not_be_switched_is_noticed_before_anything_stops(store, switch):
    change, service = ask(switch, store), RememberingService()
    (store.link.parent / ".current.new").mkdir()
    switch.take_up(service)
    assert service.calls == []
    assert switch.journal.change(change.id).outcome == steps.REFUSED


def test_a_target_that_is_not_as_it_was_built_is_refused(tmp_path, store, switch):
    publish(store, store.releases_dir / "new", "new", Build())
    change, service = ask(switch, store), RememberingService()
    (store.releases_dir / "new" / "schemas" / "label.json").write_text('{"enum": ["C"]}')
    switch.take_up(service)
    assert service.calls == []
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (steps.REFUSED, "schemas/label.json: not as it was built")
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (0,)


def test_the_log_says_how_long_it_took_and_why_it_was_taken_back(tmp_path, store, switch):
    ask(switch, store)
    switch.take_up(RememberingService(broken=("new",)))
    (line,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (line["event"], line["root_cause"], line["outcome"]) == ("llm_rollback_completed", "new is broken", "undone")
    assert line["duration_s"] > 0


def test_a_rollback_of_what_had_not_held_keeps_what_was_promoted_before(tmp_path, store, switch):
    ask(switch, store)
    switch.take_up(RememberingService())
    write_release(store.releases_dir / "byhand")
    ask(switch, store, steps.ROLLBACK, "new", "byhand")
    switch.take_up(RememberingService())
    back = previous_release(switch.journal.changes(), switch.link, str(store.releases_dir / "byhand"))
    assert back is not None and back.name == "new"


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
