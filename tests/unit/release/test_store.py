"""The store finds releases by name and switches its link atomically."""

import threading

import pytest

from llmstack.release.store import ReleaseStore, StoreError, point_link
from tests.releases import write_release


@pytest.fixture
def store(tmp_path):
    write_release(tmp_path / "artifacts" / "releases" / "r1")
    write_release(tmp_path / "artifacts" / "releases" / "r2")
    return ReleaseStore(tmp_path / "artifacts")


def test_a_release_is_found_by_name_and_by_directory(store):
    assert store.names() == ["r1", "r2"]
    assert store.directory("r1") == store.releases_dir / "r1"
    assert store.directory(str(store.releases_dir / "r2")) == store.releases_dir / "r2"


@pytest.mark.parametrize("name", ["r3", "..", "../releases/r9", "/etc", ""])
def test_an_unknown_name_is_an_error_that_lists_the_existing_releases(store, name):
    with pytest.raises(StoreError, match="known: r1, r2"):
        store.directory(name)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "x" * 65, "a b"])
def test_a_name_that_is_not_allowed_is_an_error(store, name):
    with pytest.raises(StoreError):
        store.new_directory(name)


def test_the_link_always_leads_to_a_release(store):
    point_link(store.link, store.releases_dir / "r1")
    seen, over = set(), threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(store.in_service())

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(200):
        for name in ("r2", "r1"):
            point_link(store.link, store.releases_dir / name)
    over.set()
    looking.join()
    assert seen == {store.releases_dir / "r1", store.releases_dir / "r2"}


def test_a_directory_in_place_of_the_link_is_not_replaced(store):
    store.link.mkdir()
    with pytest.raises(OSError, match="not a link"):
        point_link(store.link, store.releases_dir / "r1")
    assert store.link.is_dir()


def test_the_temporary_link_of_a_killed_switch_does_not_block_the_next_one(store):
    store.link.with_name(".current.new").symlink_to("nowhere")
    point_link(store.link, store.releases_dir / "r1")
    assert store.in_service() == store.releases_dir / "r1"
    point_link(store.link, None)
    assert store.in_service() is None
