"""A release that was taken out of service is known with the cause, by its hashes, whichever way it left."""

import pytest

from llm_policy.release.release import Release
from llmstack.release.change import ROLLBACK, UNDOING, ReleaseRef
from llmstack.release.last_rollback import is_rolled_back, last_rollback, read_last_rollback
from tests.unit.release.recording_service import RecordingService, kill, open_change


def ref(store, name):
    return ReleaseRef.of(Release.open(store.directory(name)))


def promote(store, switch, *, broken=()):
    change = open_change(switch, store)
    switch.perform_pending(RecordingService(broken=broken))
    return switch.journal.change(change.id)


def roll_back(store, switch, **service):
    change = open_change(switch, store, ROLLBACK, "new", "old")
    switch.perform_pending(RecordingService(**service))
    return switch.journal.change(change.id)


def test_a_rollback_names_the_release_it_leads_from_with_cause_and_end(store, switch, tmp_path):
    promote(store, switch)
    assert read_last_rollback(tmp_path / "state", ref(store, "new")) is None
    change = roll_back(store, switch)
    found = last_rollback(switch.journal.changes(), ref(store, "new"))
    assert (found.time_ns, found.cause) == (change.ended_ns, change.reason)
    assert found.text.endswith(f": {change.reason}")
    assert last_rollback(switch.journal.changes(), ref(store, "old")) is None


def test_a_promotion_that_failed_counts_as_one_and_a_refused_one_does_not(store, switch):
    change = promote(store, switch, broken=("new",))
    found = last_rollback(switch.journal.changes(), ref(store, "new"))
    assert (found.time_ns, found.cause) == (change.ended_ns, "new is broken")
    switch.record.reject(open_change(switch, store), "refused", "it changed")
    assert last_rollback(switch.journal.changes(), ref(store, "new")) == found


def test_a_promotion_that_nobody_performed_is_none(store, switch):
    open_change(switch, store)
    switch.resolve_interrupted()
    assert [change.outcome for change in switch.journal.changes()] == ["undone"]
    assert last_rollback(switch.journal.changes(), ref(store, "new")) is None


def test_a_rollback_whose_target_does_not_start_counts_while_it_is_open(store, switch):
    promote(store, switch)
    change = roll_back(store, switch, broken=("old",))
    assert change.is_open
    assert last_rollback(switch.journal.changes(), ref(store, "new")).cause == change.reason


def test_a_promotion_that_is_being_undone_counts(store, switch, tmp_path):
    open_change(switch, store)
    kill(tmp_path, UNDOING, broken="new")
    assert last_rollback(switch.journal.changes(), ref(store, "new")).cause == "new is broken"


def test_the_hashes_decide_and_the_directory_only_where_they_are_not_known(store, switch):
    promote(store, switch)
    roll_back(store, switch)
    changes, new = switch.journal.changes(), ref(store, "new")
    assert last_rollback(changes, new._replace(directory="/elsewhere")) is not None
    assert last_rollback(changes, new._replace(manifest_hash="sha256:" + "0" * 64)) is None
    unknown = [change._replace(source=ReleaseRef(new.directory)) for change in changes]
    assert last_rollback(unknown, new) is not None
    assert last_rollback(unknown, new._replace(directory="")) is None


@pytest.mark.parametrize("again", [False, True])
def test_a_release_promoted_again_is_no_longer_rolled_back(store, switch, again):
    promote(store, switch)
    roll_back(store, switch)
    if again:
        promote(store, switch)
    assert is_rolled_back(switch.journal.changes(), ref(store, "new")) is not again
    assert not is_rolled_back(switch.journal.changes(), ref(store, "old"))
