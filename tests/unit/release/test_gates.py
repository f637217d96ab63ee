"""A promotion is refused with all that is missing, and with nothing else."""

import json
import re
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

from llm_policy import alerts
from llm_policy.database import FILE_NAME, open_database, transaction
from llm_policy.release import Release
from llmstack.release.build_manifest import Build
from llmstack.release.evidence import write_evidence
from llmstack.release.gates import Evidence, check_gates
from llmstack.release.publish import publish
from llmstack.release.signed_off import BoardAccess
from llmstack.release.store import ReleaseStore
from tests.board_client import live_board
from tests.releases import change_manifest, write_release


def published(directory: Path, **manifest) -> Release:
    write_release(directory / "r1")
    if manifest:
        tree = json.loads((directory / "r1" / "manifest.json").read_text())
        change_manifest(directory / "r1", **{name: {**tree[name], **section} for name, section in manifest.items()})
    return publish(ReleaseStore(directory / "artifacts"), directory / "r1", "r1", Build())


def prove(release: Release) -> None:
    for kind in ("warmup", "smoke"):
        write_evidence(release, kind, passed=True, began_s=time.time(), record={})
    (release.directory / "module6").mkdir()
    shutil.copy(release.directory / "manifest.json", release.directory / "module6" / "judge.json")


def missing(release: Release, directory: Path, num_sign_offs: int = 0, board: BoardAccess | None = None) -> dict:
    findings = check_gates(release, Evidence((), board, num_sign_offs, directory / "state"))
    return {finding.gate: finding.missing for finding in findings if finding.missing}


def test_a_release_that_has_shown_all_passes(tmp_path):
    release = published(tmp_path)
    prove(release)
    assert missing(release, tmp_path) == {}


def test_one_that_has_shown_nothing_hears_of_everything_at_once(tmp_path):
    release = write_release(tmp_path / "artifacts" / "releases" / "r1")
    assert set(missing(release, tmp_path, 2)) == {"build manifest", "alignment", "warm-up", "smoke", "sign-offs"}


@pytest.mark.parametrize("file", ["engine/rank0.engine", "schemas/label.json", "tokenizer/tokenizer_config.json"])
def test_a_file_that_changed_can_not_be_overridden(tmp_path, file):
    release = published(tmp_path)
    prove(release)
    (release.directory / file).write_text('{"enum": [1]}')
    findings = check_gates(release, Evidence((), None, 0, tmp_path))
    (found,) = [finding for finding in findings if finding.missing]
    assert found.is_absolute
    assert any(file in text or "engine.hash" in text for text in found.missing)


def test_evidence_of_another_manifest_or_a_failed_run_does_not_count(tmp_path):
    release = published(tmp_path)
    prove(release)
    write_evidence(release, "smoke", passed=False, began_s=time.time(), record={})
    record = json.loads((release.directory / "warmup.json").read_text())
    (release.directory / "warmup.json").write_text(json.dumps(record | {"manifest_hash": "sha256:" + "0" * 64}))
    found = missing(release, tmp_path)
    assert "of another engine or manifest" in found["warm-up"][0]
    assert "failed" in found["smoke"][0]


def test_every_difference_to_the_evaluation_side_is_listed(tmp_path):
    release = published(tmp_path)
    prove(release)
    tree = json.loads((release.directory / "manifest.json").read_text())
    tree["thresholds"] |= {"max_queue_delay_us": 9_000, "max_cost_usd": 0.5}
    (release.directory / "module6" / "rank.json").write_text(json.dumps(tree))
    (release.directory / "module6" / "broken.json").write_text("{")
    found = missing(release, tmp_path)["alignment"]
    assert [text.split(":")[0] for text in found] == ["broken.json", "rank.json", "rank.json"]
    assert any("max_queue_delay_us: ours 2500, theirs 9000" in text for text in found)


def test_a_batch_above_four_needs_its_bench(tmp_path):
    release = published(tmp_path, engine={"max_batch_size": 8})
    prove(release)
    assert "llmstack bench gate --max-batch-size 8" in missing(release, tmp_path)["batch size"][0]
    write_evidence(release, "bench_gate", passed=True, began_s=0.0, record={"max_batch_size": 6})
    assert "of batch size 6" in missing(release, tmp_path)["batch size"][0]
    write_evidence(release, "bench_gate", passed=True, began_s=0.0, record={"max_batch_size": 8})
    assert missing(release, tmp_path) == {}


@pytest.mark.parametrize(("rule", "blocks"), [("engine_unhealthy", True), ("schema_violation", True), ("cost", False)])
def test_an_open_alert_at_error_level_blocks_until_its_window_ends(tmp_path, rule, blocks):
    release = published(tmp_path)
    prove(release)
    state = tmp_path / "state"
    state.mkdir()
    engine = release.manifest.engine
    with closing(open_database(state / FILE_NAME)) as connection:
        for age_s in (70, 5):
            with transaction(connection):
                alerts.record_breach(
                    connection,
                    rule,
                    alerts.Breach(1),
                    threshold=0,
                    engine_hash=engine.hash,
                    quantisation=engine.quantisation,
                    now_ns=time.time_ns() - age_s * 10**9,
                )
            assert bool(missing(release, tmp_path)) == (blocks and age_s == 5)


def test_the_board_must_hold_enough_signatures_for_exactly_these_hashes(tmp_path):
    release = published(tmp_path)
    prove(release)
    board_dir = tmp_path / "board"
    board_dir.mkdir()
    with live_board(board_dir, release.directory.parents[1]) as board:
        token_file = board_dir / "token"
        token_file.write_text(board.add_reader())
        access = BoardAccess(board.url, token_file)
        assert "0 of 2 signatures" in missing(release, tmp_path, 2, access)["sign-offs"][0]
        hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
        for name in ("Ada", "Grace"):
            sign(board.log_in(board.add(name)), hashes)
            found = missing(release, tmp_path, 2, access)
            assert bool(found) == (name == "Ada")
        token_file.write_text("wrong")
        assert "status 401" in missing(release, tmp_path, 2, access)["sign-offs"][0]


def test_a_board_that_does_not_answer_is_no_signature(tmp_path):
    release = published(tmp_path)
    prove(release)
    (tmp_path / "token").write_text("x")
    access = BoardAccess("http://127.0.0.1:9", tmp_path / "token")
    assert "can't be asked" in missing(release, tmp_path, 1, access)["sign-offs"][0]


def sign(client, hashes: dict[str, str]) -> None:
    page = client.get("/releases/r1").text
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    answer = client.post("/releases/r1/sign", data={**hashes, "comment": "", "csrf_token": token[1] if token else ""})
    assert answer.status_code == 200, answer.text
