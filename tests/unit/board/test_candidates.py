"""Release pages show all evidence, what is missing, and whether the evidence changed after a sign-off."""

import html
import json
import re
import shutil
from contextlib import closing

import pytest

from llm_policy.release.release import Release
from llmstack.board.candidates import find_candidate
from llmstack.board.promotion_check import find_missing
from llmstack.board.template_filters import flatten, format_value, label_of
from llmstack.release.evidence import SMOKE
from llmstack.release.store import ReleaseStore
from tests.board_client import live_board
from tests.board_releases import SLICE, write_run, write_store


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    directory = tmp_path_factory.mktemp("board")
    write_store(directory / "artifacts")
    with live_board(directory, directory / "artifacts") as live:
        live.client = live.log_in(live.add("Ada"))
        yield live


def text_of(board, path: str) -> str:
    return html.unescape(board.client.get(path).text)


def fields(board, name: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text_of(board, f"/releases/{name}")))


@pytest.mark.parametrize("name", ["good", "bad"])
def test_every_value_of_the_manifest_is_shown(board, name):
    page = text_of(board, f"/releases/{name}")
    tree = json.loads((board.settings.store.directory(name) / "manifest.json").read_text())
    for key, value in flatten(tree):
        table, _, name = key.rpartition(".")
        label = f"<dt>{name}</dt>" if table == "schemas" else f'<dt title="{name}">{label_of(name)}</dt>'
        assert re.search(rf"{re.escape(label)}<dd[^>]*>{re.escape(format_value(value))}</dd>", page), key


def test_the_build_manifest_is_shown_with_every_file(board):
    page = text_of(board, "/releases/good")
    manifest = json.loads((board.settings.store.directory("good") / "build_manifest.json").read_text())
    for text in (*manifest["build"].values(), *(file["sha256"] for file in manifest["files"])):
        assert text in page


def test_a_failed_row_is_shown_with_its_fault(board):
    page = text_of(board, "/releases/bad")
    for text in (
        "num_input_tokens is 4095, expected 4096",
        '/verdict is "pass", expected "fail"',
        "queue_delay_us_p99",
    ):
        assert text in page


def test_a_release_that_is_not_ready_lists_what_is_missing(board):
    page = text_of(board, "/releases/bad")
    for text in ("alignment with 1 of 1", "warmup (failed, 1 of 2 rows)", "smoke (failed, 1 of 2 rows)", "2 more of 2"):
        assert text in page


def test_a_release_with_all_evidence_and_sign_offs_lacks_nothing(board):
    candidate = find_candidate(board.settings.store, "good")
    assert find_missing(candidate, ["Ada", "Grace"], 2, []) == []
    assert find_missing(candidate, ["Ada"], 2, []) == ["1 more of 2 sign-offs"]
    assert find_missing(candidate, ["Ada", "Grace"], 2, ["engine_unhealthy"]) == [
        "an end to the open alert engine_unhealthy"
    ]


def test_a_run_that_covers_only_a_part_is_incomplete(board, tmp_path):
    shutil.copytree(board.settings.store.directory("good"), tmp_path / "releases" / "part")
    write_run(Release.open(tmp_path / "releases" / "part"), SMOKE, SLICE, num_slices=1, num_passed=1)
    found = find_missing(find_candidate(ReleaseStore(tmp_path), "part"), ["Ada", "Grace"], 2, [])
    assert found == ["smoke (incomplete: nothing of task generate_json; task rank_candidates): llmstack smoke"]


def test_a_bench_of_a_smaller_batch_is_insufficient(board):
    candidate = find_candidate(board.settings.store, "bad")
    smaller = [run._replace(results={"max_batch_size": 6}) for run in candidate.runs]
    found = find_missing(candidate._replace(runs=tuple(smaller)), [], 0, [])
    assert "llmstack bench gate" in found[-1]


def test_a_run_after_a_sign_off_is_shown_beside_it(board):
    path = "/releases/good"
    assert board.client.post(f"{path}/sign", data=fields(board, "good")).status_code == 200
    assert "evidence changed since" not in text_of(board, path)
    release = Release.open(board.settings.store.directory("good"))
    write_run(release, SMOKE, SLICE, num_slices=1, num_passed=1)
    assert "evidence changed since this sign-off" in text_of(board, path)
    assert "(evidence changed since)" in text_of(board, "/")
    board.client.post(f"{path}/withdraw", data=fields(board, "good"))


def test_evidence_that_changed_after_the_page_was_loaded_is_not_signed_off(board):
    seen = fields(board, "bad")
    release = Release.open(board.settings.store.directory("bad"))
    write_run(release, SMOKE, {**SLICE, "id": "judge-3"}, num_slices=1)
    assert board.client.post("/releases/bad/sign", data=seen).status_code == 409


@pytest.mark.parametrize("record", [b"[]", b"{", b'{"rows": [1, {"what": "x"}, null]}', b'{"results": {"a": 1}}'])
def test_a_malformed_record_does_not_break_the_page(board, tmp_path, record):
    shutil.copytree(board.settings.store.directory("bad"), tmp_path / "releases" / "odd")
    (tmp_path / "releases" / "odd" / "smoke.json").write_bytes(record)
    with live_board(tmp_path, tmp_path) as other, closing(other.log_in(other.add("Ada"))) as client:
        assert client.get("/releases/odd").status_code == 200


def test_release_names_are_hidden_without_a_login(board):
    import httpx

    for name in ("good", "nothing"):
        shown = httpx.get(f"{board.url}/releases/{name}")
        signed = httpx.post(f"{board.url}/releases/{name}/sign", data={"csrf_token": "x"})
        assert (shown.status_code, shown.headers["location"], signed.status_code) == (
            303,
            f"/login?next=/releases/{name}",
            401,
        )
