"""The service of `llmstack serve` resolves an interrupted change before it opens its release."""

import pytest

from llmstack.release.change import FAILED
from llmstack.release.serving import ServedRelease
from llmstack.server.error import ServerStartError
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.state_directory import StateDirectory
from llmstack.supervision.stop_signals import StopSignals
from tests.unit.release.recording_service import kill, open_change


def open_served(release_dir, state_dir):
    with StateDirectory(state_dir) as state:
        return ServedRelease(release_dir, state, StopSignals(), ServiceSettings())


def test_a_missing_release_is_an_error_with_a_next_step(tmp_path):
    with pytest.raises(ServerStartError, match="no release at") as raised:
        open_served(tmp_path / "nowhere", tmp_path / "state")
    assert "llmstack manifest verify" in raised.value.next_step


def test_an_unreadable_journal_is_an_error_with_a_next_step(tmp_path, store):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ServerStartError, match="can't be resolved") as raised:
        open_served(store.link, tmp_path / "state")
    assert "ledger.db" in raised.value.next_step


def test_an_interrupted_promotion_is_undone_before_the_release_is_opened(tmp_path, store, switch):
    open_change(switch, store)
    kill(tmp_path, "start", broken="none")
    served = open_served(store.link, tmp_path / "state")
    assert served.service.release.directory.name == "old"


def test_a_broken_release_ends_the_interrupted_change(tmp_path, store, switch):
    change = open_change(switch, store)
    kill(tmp_path, "start", broken="none")
    (store.releases_dir / "old" / "manifest.json").write_text("{")
    with pytest.raises(ServerStartError):
        open_served(store.link, tmp_path / "state")
    assert switch.journal.change(change.id).outcome == FAILED
