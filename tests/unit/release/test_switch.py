"""A switch performs a change step by step, takes it back when its target fails, and resolves it after a crash."""

import json
import sqlite3
from contextlib import closing

import pytest

from llmstack.events.json_log import json_log
from llmstack.release.build_manifest import Build
from llmstack.release.change import (
    COMPLETED,
    FAILED,
    OPEN,
    PREPARATION_STEPS,
    PROMOTION,
    RECOVERING,
    REFUSED,
    REQUESTED,
    ROLLBACK,
    SWITCH,
    UNDOING,
    UNDONE,
)
from llmstack.release.publish import publish
from llmstack.release.switch import Switch
from llmstack.supervision.startup import PHASES
from tests.unit.release.recording_service import (
    FullJournal,
    RecordingService,
    events,
    kill,
    make_switch,
    open_change,
)

ALL_STEPS = (*PREPARATION_STEPS, *PHASES)


def test_a_promotion_performs_its_steps_in_order_and_is_reported(tmp_path, store, switch):
    change, service = open_change(switch, store), RecordingService()
    switch.perform_pending(service)
    assert service.calls == ["mark_unready", "drain_requests", "stop_server", "set_release new", "bring_up new"]
    assert store.in_service().name == "new"
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.step) == (COMPLETED, "readiness_on")
    (event,) = events(tmp_path)
    assert event["type"] == "llm_release_promoted"
    data = event["data"]
    assert (data["from"], data["to"], data["override"]) == ("old", "new", "because")
    assert (data["engine_hash"], data["manifest_hash"]) == (change.target.engine_hash, change.target.manifest_hash)


def test_a_rollback_is_reported_with_its_root_cause(tmp_path, store, switch):
    change = open_change(switch, store, ROLLBACK, "old", "new")
    switch.perform_pending(RecordingService())
    assert switch.journal.change(change.id).outcome == COMPLETED
    (event,) = events(tmp_path)
    assert event["type"] == "llm_rollback_completed"
    data = event["data"]
    assert (data["root_cause"], data["from"], data["to"], data["automatic"]) == ("because", "old", "new", False)


def test_a_promotion_whose_target_fails_is_taken_back_automatically(tmp_path, store, switch):
    change, service = open_change(switch, store), RecordingService(broken=("new",))
    switch.perform_pending(service)
    assert service.calls[-3:] == ["stop_server", "set_release old", "bring_up old"]
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (UNDONE, "new is broken")
    (event,) = events(tmp_path)
    assert event["type"] == "llm_rollback_completed"
    data = event["data"]
    assert (data["root_cause"], data["from"], data["to"], data["automatic"]) == ("new is broken", "new", "old", True)


def test_when_neither_release_starts_the_service_keeps_trying_the_source(tmp_path, store, switch):
    change, service = open_change(switch, store), RecordingService(broken=("new", "old"))
    switch.perform_pending(service)
    assert service.calls[-1] == "recover"
    assert store.in_service().name == "old"
    left = switch.journal.change(change.id)
    assert (left.outcome, left.step) == (OPEN, RECOVERING)
    assert left.detail == "new is broken; and back in old: old is broken"
    assert not switch.has_pending_change()


def test_a_promotion_is_reported_as_taken_back_when_its_source_starts_later(tmp_path, store, switch):
    change = open_change(switch, store)
    switch.perform_pending(RecordingService(broken=("new", "old"), recovers=True))
    assert switch.journal.change(change.id).outcome == UNDONE
    (event,) = events(tmp_path)
    assert (event["type"], event["data"]["root_cause"]) == ("llm_rollback_completed", "new is broken")


def test_a_rollback_whose_target_fails_never_returns_to_its_source(store, switch):
    change, service = open_change(switch, store, ROLLBACK), RecordingService(broken=("new",))
    switch.perform_pending(service)
    assert service.calls[-1] == "recover"
    assert store.in_service().name == "new"
    left = switch.journal.change(change.id)
    assert (left.outcome, left.step, left.detail) == (OPEN, RECOVERING, "new is broken")


def test_a_rollback_that_succeeds_at_a_later_attempt_is_completed_and_reported(tmp_path, store, switch):
    change = open_change(switch, store, ROLLBACK)
    switch.perform_pending(RecordingService(broken=("new",), recovers=True))
    assert switch.journal.change(change.id).outcome == COMPLETED
    (event,) = events(tmp_path)
    assert (event["type"], event["data"]["to"]) == ("llm_rollback_completed", "new")


def test_the_next_change_supersedes_a_change_that_keeps_trying(tmp_path, store, switch):
    tried = open_change(switch, store, ROLLBACK)
    switch.perform_pending(RecordingService(broken=("new",)))
    open_change(switch, store, PROMOTION, "new", "old")
    assert switch.has_pending_change()
    switch.perform_pending(RecordingService())
    ended = switch.journal.change(tried.id)
    assert (ended.outcome, ended.detail) == (FAILED, "new is broken; given up for a promotion")
    failure, promoted = events(tmp_path)
    assert (failure["type"], failure["data"]["kind"]) == ("llm_release_change_failed", "rollback")
    assert failure["data"]["cause"] == ended.detail
    assert promoted["type"] == "llm_release_promoted"


def test_a_rollback_supersedes_a_promotion_in_progress(tmp_path, store, switch):
    promotion = open_change(switch, store)

    class RollbackDuringStart(RecordingService):
        def bring_up(self, on_phase, start_timeout_s):
            if self.served == "new":
                on_phase(PHASES[0])
                open_change(switch, store, ROLLBACK, "new", "old")
                assert switch.has_pending_change()
            super().bring_up(on_phase, start_timeout_s)

    service = RollbackDuringStart()
    switch.perform_pending(service)
    assert service.calls[-1] == "set_release new"
    assert switch.has_pending_change()
    switch.perform_pending(service)
    assert service.calls[-3:] == ["stop_server", "set_release old", "bring_up old"]
    assert store.in_service().name == "old"
    ended = switch.journal.change(promotion.id)
    assert (ended.outcome, ended.detail) == (UNDONE, "taken back by a rollback: because")
    (event,) = events(tmp_path)
    assert (event["type"], event["data"]["automatic"]) == ("llm_rollback_completed", False)


@pytest.fixture
def full(tmp_path, store):
    return make_switch(tmp_path, FullJournal(tmp_path / "state"))


@pytest.mark.parametrize("step", PREPARATION_STEPS[1:4])
def test_a_full_disk_before_the_stop_leaves_the_service_as_it_was(tmp_path, store, full, step):
    change, service = open_change(full, store), RecordingService()
    full.journal.full_at = step
    full.perform_pending(service)
    assert service.calls[-1] == "resume"
    assert "stop_server" not in service.calls
    assert "database or disk is full" in (tmp_path / "log").read_text()
    full.journal.full_at = REQUESTED
    assert not full.has_pending_change()
    full.journal.full_at = ""
    assert full.has_pending_change()
    full.perform_pending(service)
    assert store.in_service().name == "new"
    assert full.journal.change(change.id).outcome == COMPLETED


@pytest.mark.parametrize("step", [SWITCH, *PHASES])
def test_after_a_full_disk_the_end_is_journalled_as_soon_as_possible(tmp_path, store, full, step):
    change, service = open_change(full, store), RecordingService()
    full.journal.full_at = step
    full.perform_pending(service)
    assert service.calls[-1] == "bring_up new"
    assert not full.has_pending_change()
    assert full.journal.change(change.id).is_open
    full.journal.full_at = ""
    assert not full.has_pending_change()
    assert full.journal.change(change.id).outcome == COMPLETED
    assert [event["type"] for event in events(tmp_path)] == ["llm_release_promoted"]


def test_an_error_of_the_journal_is_logged_once(tmp_path, store, full):
    open_change(full, store)
    full.journal.full_at = REQUESTED
    for _ in range(5):
        assert not full.has_pending_change()
    assert (tmp_path / "log").read_text().count("release_change_waits") == 1


def test_an_interrupted_promotion_from_a_broken_release_ends_as_failed(tmp_path, store, switch):
    change = open_change(switch, store)
    kill(tmp_path, "start", broken="none")
    (store.releases_dir / "old" / "manifest.json").write_text("{")
    interrupted = switch.resolve_interrupted()
    switch.fail_interrupted(interrupted, "old is not a release")
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (FAILED, "interrupted at the step start; old is not a release")
    assert [event["type"] for event in events(tmp_path)] == ["llm_release_change_failed"]
    assert switch.journal.open_change() is None


def test_a_failed_promotion_whose_source_is_broken_ends_as_failed(tmp_path, store, switch):
    change, service = open_change(switch, store), RecordingService(broken=("new",))
    (store.releases_dir / "old" / "manifest.json").write_text("{")
    switch.perform_pending(service)
    assert service.calls[-1] == "recover"
    assert switch.journal.change(change.id).outcome == FAILED
    assert [event["type"] for event in events(tmp_path)] == ["llm_release_change_failed"]


@pytest.mark.parametrize("step", [UNDOING, "rollback"])
def test_an_interrupted_change_that_can_not_be_completed_no_longer_blocks_others(tmp_path, store, switch, step):
    if step == "rollback":
        open_change(switch, store, ROLLBACK)
        kill(tmp_path, "canary", broken="none")
    else:
        open_change(switch, store)
        kill(tmp_path, step, broken="new")
    switch.fail_interrupted(switch.resolve_interrupted(), "it does not start")
    assert switch.journal.changes()[-1].outcome == FAILED
    open_change(switch, store)


def test_an_interrupted_change_of_another_link_is_undone_and_ends(tmp_path, store, switch):
    change = open_change(switch, store)
    kill(tmp_path, "start", broken="none")
    other = Switch(switch.journal, tmp_path / "elsewhere" / "current", json_log((tmp_path / "log").open("a")))
    assert other.resolve_interrupted() is None
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert ended.outcome == FAILED
    assert "leads to old, whose health was not checked again" in ended.detail


def test_an_interrupted_change_whose_link_can_not_be_switched_ends(tmp_path, store, switch):
    open_change(switch, store)
    kill(tmp_path, "start", broken="none")
    store.link.unlink()
    store.link.mkdir()
    assert switch.resolve_interrupted() is None
    assert "is a directory" in switch.journal.changes()[-1].detail


def test_a_link_that_can_not_be_switched_is_found_before_the_server_stops(store, switch):
    change, service = open_change(switch, store), RecordingService()
    (store.link.parent / ".current.new").mkdir()
    switch.perform_pending(service)
    assert service.calls == []
    assert switch.journal.change(change.id).outcome == REFUSED


def test_a_target_that_differs_from_its_build_manifest_is_refused(tmp_path, store, switch):
    publish(store, store.releases_dir / "new", "new", Build())
    change, service = open_change(switch, store), RecordingService()
    (store.releases_dir / "new" / "schemas" / "label.json").write_text('{"enum": ["C"]}')
    switch.perform_pending(service)
    assert service.calls == []
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (REFUSED, "schemas/label.json: differs from the build manifest")
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (0,)


def test_the_log_has_the_duration_and_the_root_cause(tmp_path, store, switch):
    open_change(switch, store)
    switch.perform_pending(RecordingService(broken=("new",)))
    (line,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (line["event"], line["root_cause"], line["outcome"]) == ("llm_rollback_completed", "new is broken", "undone")
    assert line["duration_s"] > 0


def test_a_target_that_changed_after_the_request_is_refused_before_the_server_stops(store, switch):
    change, service = open_change(switch, store), RecordingService()
    (store.releases_dir / "new" / "engine" / "rank0.engine").write_bytes(b"another")
    switch.perform_pending(service)
    assert service.calls == []
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert ended.outcome == REFUSED
    assert "engine.hash" in ended.detail


@pytest.mark.parametrize("kind", [PROMOTION, pytest.param(ROLLBACK, marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", ALL_STEPS)
def test_a_change_killed_at_any_step_is_resolved(tmp_path, store, switch, kind, step):
    change = open_change(switch, store, kind)
    kill(tmp_path, step, broken="none")
    expected = "new" if kind == ROLLBACK or step == "readiness_on" else "old"
    interrupted = switch.resolve_interrupted()
    if kind == PROMOTION and step == REQUESTED:
        assert interrupted is None
    else:
        assert store.in_service().name == expected
        switch.complete_interrupted(interrupted)
    ended = switch.journal.change(change.id)
    assert store.in_service().name == expected
    assert ended.outcome == (COMPLETED if expected == "new" else UNDONE)
    assert switch.journal.open_change() is None
    reported = [event["data"]["to"] for event in events(tmp_path)] if interrupted else []
    assert reported == ([expected] if interrupted else [])


def test_a_promotion_killed_while_it_is_taken_back_is_taken_back(tmp_path, store, switch):
    change = open_change(switch, store)
    kill(tmp_path, UNDOING, broken="new")
    interrupted = switch.resolve_interrupted()
    switch.complete_interrupted(interrupted)
    assert store.in_service().name == "old"
    assert switch.journal.change(change.id).detail == "new is broken"


def test_a_resolved_promotion_that_can_not_be_completed_is_taken_back_next_time(tmp_path, store, switch):
    change = open_change(switch, store)
    kill(tmp_path, "readiness_on", broken="none")
    switch.fail_interrupted(switch.resolve_interrupted(), "it does not start")
    switch.complete_interrupted(switch.resolve_interrupted())
    assert store.in_service().name == "old"
    ended = switch.journal.change(change.id)
    assert (ended.outcome, ended.detail) == (UNDONE, "it does not start")
