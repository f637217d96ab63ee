"""The page of a release shows first what differs from the one in service: values, schemas and files."""

import html
import json
import shutil
from contextlib import closing

import pytest

from llmstack.board.candidates import find_candidate, read_in_service
from llmstack.board.release_difference import ChangedFile, ChangedValue, compare
from llmstack.release.publish import publish
from llmstack.release.store import ReleaseStore, point_link
from tests.board_client import live_board
from tests.board_releases import BUILD, write_store
from tests.releases import change_manifest, update_manifest_hashes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """`bad`, `same` and `files`: with another schema, one schema less, and a larger engine than `good`."""
    artifacts = tmp_path_factory.mktemp("store") / "artifacts"
    store = write_store(artifacts)
    shutil.copytree(store.directory("good"), store.releases_dir / "same")
    built = shutil.copytree(artifacts / "built" / "good", artifacts / "built" / "files")
    order = built / "schemas" / "order.json"
    order.write_text(json.dumps({**json.loads(order.read_text()), "title": "Order"}))
    (built / "schemas" / "invoice.json").unlink()
    (built / "engine" / "notes.txt").write_text("tuned")
    change_manifest(built, on_cost_breach="reject")
    update_manifest_hashes(built)
    publish(store, built, "files", BUILD)
    return store


def difference(store, name):
    return compare(find_candidate(store, name), read_in_service(store))


def test_only_what_differs_is_listed_with_both_values(store):
    found = difference(store, "bad")
    assert found.in_service == "good"
    assert found.values == (
        ChangedValue("engine.max_batch_size", 4, 8),
        ChangedValue("on_cost_breach", "notify", "reject"),
    )
    assert found.files == ()
    assert not found.is_empty


def test_schemas_and_files_that_are_new_changed_or_missing_are_listed(store):
    found = difference(store, "files")
    keys = [each.key for each in found.values]
    assert {"engine.hash", "schemas.invoice", "schema hashes.invoice", "schema hashes.order"} <= set(keys)
    assert "schema hashes.verdict" not in keys
    (gone,) = (each for each in found.values if each.key == "schemas.invoice")
    assert (gone.in_service, gone.here) == ("schemas/invoice.json", None)
    files = {each.path: each for each in found.files}
    assert files["engine/notes.txt"] == ChangedFile("engine/notes.txt", "only in this release", None, 5)
    assert files["schemas/invoice.json"].difference == "only in the one in service"
    assert files["schemas/order.json"].difference == "differs"
    assert "manifest.json" not in files


def test_a_copy_differs_in_nothing(store):
    assert difference(store, "same").is_empty


def test_without_a_build_manifest_the_files_are_not_compared(store):
    good = read_in_service(store)
    assert compare(find_candidate(store, "files")._replace(build=None), good).files is None


def pages(store: ReleaseStore, tmp_path, *paths: str) -> list[str]:
    with live_board(tmp_path, store.link.parent) as board, closing(board.log_in(board.add("Ada"))) as client:
        return [html.unescape(client.get(path).text) for path in paths]


def test_the_page_has_the_form_in_the_verdict_then_the_differences_then_the_rest_folded(store, tmp_path):
    page, files, same, good = pages(
        store, tmp_path, *(f"/releases/{name}" for name in ("bad", "files", "same", "good"))
    )
    marks = ['id="verdict"', "</button>\n  </form>\n</section>", 'id="difference"', 'id="evidence"', 'id="signed"']
    positions = [page.index(mark) for mark in marks]
    assert positions == sorted(positions)
    assert "Engine: max batch size" in page[positions[2] : positions[3]]
    folded = page[positions[4] :]
    assert folded.index("<details>") < folded.index("Max queue delay (µs)")
    assert "only in this release" in files
    assert "Nothing: its manifest, schemas and files are those of" in same
    assert 'id="difference"' not in good


def test_a_release_is_shown_where_none_is_in_service_or_that_one_is_broken(store, tmp_path):
    artifacts = shutil.copytree(store.link.parent, tmp_path / "artifacts", symlinks=True)
    with live_board(tmp_path, artifacts) as board, closing(board.log_in(board.add("Ada"))) as client:
        point_link(board.settings.store.link, None)
        assert "No release is in service." in client.get("/releases/bad").text
        good = board.settings.store.directory("good")
        point_link(board.settings.store.link, good)
        (good / "manifest.json").write_text("{")
        assert "good is in service and can't be read" in client.get("/releases/bad").text
