"""A promotion is refused with all that is missing, and with nothing else."""

import json
import re
import shutil
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from llm_policy.ledger import alerts
from llm_policy.ledger.database import FILE_NAME, open_database, transaction
from llm_policy.release.release import Release
from llmstack.release.board_client import BoardAccess
from llmstack.release.build_manifest import Build
from llmstack.release.coverage import lengths, subjects
from llmstack.release.error_alerts import OPEN_S
from llmstack.release.evidence import write_evidence
from llmstack.release.promotion_gates import GateInputs, check_gates
from llmstack.release.publish import publish
from llmstack.release.store import ReleaseStore
from tests.board_client import live_board
from tests.releases import change_manifest, write_release


def published(directory: Path, **manifest) -> Release:
    write_release(directory / "r1")
    if manifest:
        tree = json.loads((directory / "r1" / "manifest.json").read_text())
        change_manifest(directory / "r1", **{name: {**tree[name], **section} for name, section in manifest.items()})
    return publish(ReleaseStore(directory / "artifacts"), directory / "r1", "r1", Build())


def rows(release: Release) -> list[dict]:
    """What a whole warm-up records, as far as its gate looks at it."""
    pairs = product(subjects(release), lengths(release))
    return [{"what": subject.what, "prompt_tokens": length} for subject, length in pairs]


def prove(release: Release) -> None:
    results = [{"id": task, "task": task} for task in release.manifest.tasks]
    write_evidence(release, "warmup", passed=True, began_s=time.time(), record={"rows": rows(release)})
    write_evidence(release, "smoke", passed=True, began_s=time.time(), record={"results": results})
    (release.directory / "module6").mkdir()
    shutil.copy(release.directory / "manifest.json", release.directory / "module6" / "judge.json")


def missing(release: Release, directory: Path, num_sign_offs: int = 0, board: BoardAccess | None = None) -> dict:
    findings = check_gates(release, GateInputs((), board, num_sign_offs, directory / "state", num_sign_offs))
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
    findings = check_gates(release, GateInputs((), None, 0, tmp_path))
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


def test_a_warm_up_counts_for_the_lengths_tasks_and_schemas_that_it_covered(tmp_path):
    release = published(tmp_path)
    prove(release)
    some = [row for row in rows(release) if row != {"what": "task judge", "prompt_tokens": 4_096}]
    some = [row for row in some if row["what"] != "schema label"]
    write_evidence(release, "warmup", passed=True, began_s=0.0, record={"rows": some})
    found = missing(release, tmp_path)["warm-up"]
    assert [text.removeprefix("warmup.json: nothing of ").split(": ")[0] for text in found] == [
        "task judge at 4096 prompt tokens",
        "schema label at 16, 256, 1024, 4096 prompt tokens",
    ]
    write_evidence(release, "warmup", passed=True, began_s=0.0, record={})
    assert len(missing(release, tmp_path)["warm-up"]) == len(subjects(release))


def test_a_smoke_counts_when_each_task_had_a_slice(tmp_path):
    release = published(tmp_path)
    prove(release)
    results = [{"task": "judge"}, {"task": None}, {"task": "generate_json"}]
    write_evidence(release, "smoke", passed=True, began_s=0.0, record={"results": results})
    (found,) = missing(release, tmp_path)["smoke"]
    assert "nothing of task rank_candidates" in found


def test_a_bench_record_that_names_no_batch_size_does_not_count(tmp_path):
    release = published(tmp_path, engine={"max_batch_size": 8})
    prove(release)
    write_evidence(release, "bench_gate", passed=True, began_s=0.0, record={})
    assert "of batch size None" in missing(release, tmp_path)["batch size"][0]


def breach(directory: Path, rule: str, engine_hash: str, age_s: float) -> None:
    directory.mkdir(exist_ok=True)
    with closing(open_database(directory / FILE_NAME)) as connection, transaction(connection):
        alerts.record_breach(
            connection,
            rule,
            alerts.Breach(1),
            threshold=0,
            engine_hash=engine_hash,
            quantisation="w4a8",
            now_ns=time.time_ns() - int(age_s * 1e9),
        )


@pytest.mark.parametrize(("rule", "blocks"), [("engine_unhealthy", True), ("schema_violation", True), ("cost", False)])
def test_an_alert_at_error_level_blocks_for_an_hour(tmp_path, rule, blocks):
    release = published(tmp_path)
    prove(release)
    engine_hash = release.manifest.engine.hash
    breach(tmp_path / "state", rule, engine_hash, OPEN_S + 5)
    breach(tmp_path / "state", rule, "sha256:" + "0" * 64, 5)
    assert missing(release, tmp_path) == {}
    breach(tmp_path / "state", rule, engine_hash, OPEN_S - 60)
    found = missing(release, tmp_path)
    assert list(found) == (["alerts"] if blocks else [])
    assert not blocks or f"{rule} (1) 59 min ago" in found["alerts"][0]


def test_a_ledger_that_can_not_be_read_is_no_good_sign(tmp_path):
    release = published(tmp_path)
    prove(release)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE_NAME).write_bytes(b"no database, but a file that is long enough to look into" * 20)
    assert "can't be read" in missing(release, tmp_path)["alerts"][0]


def test_fewer_signatures_than_are_configured_are_missing(tmp_path):
    release = published(tmp_path)
    prove(release)
    findings = check_gates(release, GateInputs((), None, 0, tmp_path / "state", min_sign_offs=2))
    (found,) = [finding for finding in findings if finding.missing]
    assert (found.gate, found.is_absolute) == ("sign-offs", False)
    assert found.missing == ("0 signatures asked for, 2 are configured here",)


class OneAnswer(BaseHTTPRequestHandler):
    """Anybody's board: it answers each call with the server's `body`, and remembers what it was asked."""

    def do_GET(self) -> None:
        body = json.dumps(self.server.body).encode()  # type: ignore[attr-defined]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def one_answer():
    with ThreadingHTTPServer(("127.0.0.1", 0), OneAnswer) as server:
        server.asked, server.body = [], {"alerts": [], "signoffs": []}  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_an_alert_that_only_the_board_has_blocks_too(tmp_path, one_answer):
    release = published(tmp_path)
    prove(release)
    (tmp_path / "token").write_text("x")
    access = BoardAccess(f"http://127.0.0.1:{one_answer.server_port}", tmp_path / "token")
    assert missing(release, tmp_path, 0, access) == {}
    asked = parse_qs(urlsplit(one_answer.asked[0]).query)
    assert asked["engine_hash"] == [release.manifest.engine.hash]
    assert abs(time.time() - OPEN_S - float(asked["since"][0])) < 60
    told = {
        "count": 3,
        "window_start": "2026-01-01T00:00:00Z",
        "window_end": "2026-01-01T00:01:00Z",
        "phase": "summary",
    }
    one_answer.body["alerts"] = [{"rule": rule, **told} for rule in ("queue_delay", "schema_violation")]
    (found,) = missing(release, tmp_path, 0, access)["alerts"]
    assert found.startswith("schema_violation (3) in the window of 2026-01-01T00:00:00Z, says the board")
    one_answer.body["alerts"] = [{"rule": "schema_violation"}]
    assert "can't be asked" in missing(release, tmp_path, 0, access)["alerts"][0]


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
        findings = check_gates(release, GateInputs((), access, 2, tmp_path / "state"))
        assert [finding.reviewers for finding in findings if finding.reviewers] == [("Ada", "Grace")]
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
