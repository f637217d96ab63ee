"""The journal of releases holds one open change at a time."""

import pytest

from llmstack.release.journal import ChangeInProgress, ReleaseJournal
from tests.unit.release.recording_service import open_change


def test_only_one_change_is_open_at_a_time(store, switch):
    open_change(switch, store)
    with pytest.raises(ChangeInProgress):
        open_change(switch, store)


def test_a_missing_journal_is_empty(tmp_path):
    journal = ReleaseJournal(tmp_path / "nowhere")
    assert journal.open_change() is None
    assert journal.changes() == []
