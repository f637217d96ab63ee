"""Two releases, `old` in service and `new`, and a switch between them."""

import pytest

from llmstack.release.store import ReleaseStore, point_link
from tests.releases import write_release
from tests.unit.release.recording_service import make_switch


@pytest.fixture
def store(tmp_path):
    for name in ("old", "new"):
        manifest = write_release(tmp_path / "artifacts" / "releases" / name).directory / "manifest.json"
        manifest.write_text(manifest.read_text() + ("\n" if name == "new" else ""))  # another manifest hash
    store = ReleaseStore(tmp_path / "artifacts")
    point_link(store.link, store.releases_dir / "old")
    return store


@pytest.fixture
def switch(tmp_path, store):
    return make_switch(tmp_path)
