"""A request supersedes a change that may wait for it, and a rollback leads to the release promoted before."""

import pytest

from llmstack.release.change import ROLLBACK, UNDOING
from llmstack.release.change_request import previous_release, superseded_by
from llmstack.release.journal import ChangeInProgress
from tests.releases import write_release
from tests.unit.release.recording_service import RecordingService, kill, open_change


def test_a_rollback_does_not_supersede_a_promotion_that_is_being_taken_back(tmp_path, store, switch):
    open_change(switch, store)
    kill(tmp_path, UNDOING, broken="new")
    assert superseded_by(ROLLBACK, "because", switch.journal.open_change(), 0) is None
    with pytest.raises(ChangeInProgress):
        open_change(switch, store, ROLLBACK, "new", "old")


def test_a_rollback_leads_to_the_release_promoted_before(store, switch):
    journal, link = switch.journal, switch.link

    def rollback_target(current: str) -> str | None:
        release = previous_release(journal.changes(), link, str(store.releases_dir / current))
        return release.name if release else None

    assert rollback_target("old") is None
    open_change(switch, store)
    switch.perform_pending(RecordingService(broken=("new",)))
    assert rollback_target("old") is None
    open_change(switch, store)
    switch.perform_pending(RecordingService())
    assert rollback_target("new") == "old"
    open_change(switch, store, ROLLBACK, "new", "old")
    switch.perform_pending(RecordingService())
    assert rollback_target("old") is None
    assert [change.outcome for change in journal.changes()] == ["undone", "completed", "completed"]


def test_a_rollback_to_a_release_that_was_never_promoted_keeps_the_stack(tmp_path, store, switch):
    open_change(switch, store)
    switch.perform_pending(RecordingService())
    write_release(store.releases_dir / "unpromoted")
    open_change(switch, store, ROLLBACK, "new", "unpromoted")
    switch.perform_pending(RecordingService())
    target = previous_release(switch.journal.changes(), switch.link, str(store.releases_dir / "unpromoted"))
    assert target is not None and target.name == "new"
