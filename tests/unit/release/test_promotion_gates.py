"""The promotion gates report everything that a release lacks, and nothing else."""

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
from llmstack.release.change import COMPLETED, ROLLBACK, ChangeRequest, ChangeResult, ReleaseRef
from llmstack.release.coverage import coverage_items, prompt_lengths
from llmstack.release.error_alerts import ALERT_WINDOW_S, OpenAlert
from llmstack.release.evidence import BENCH_GATE, FAILED, MISSING, PASSED, SMOKE, STALE, WARMUP, write_evidence
from llmstack.release.gate_facts import GateFacts, GateSources, RunFacts, SignOffFacts
from llmstack.release.journal import ReleaseJournal
from llmstack.release.last_rollback import Rollback
from llmstack.release.manifest_file import Alignment
from llmstack.release.promotion_gates import GateResult, apply_gates, check_gates
from llmstack.release.publish import publish
from llmstack.release.store import ReleaseStore
from tests.board_client import live_board
from tests.releases import change_manifest, write_evaluation, write_release


def published(directory: Path, **manifest) -> Release:
    write_release(directory / "r1")
    if manifest:
        tree = json.loads((directory / "r1" / "manifest.json").read_text())
        change_manifest(directory / "r1", **{name: {**tree[name], **section} for name, section in manifest.items()})
    return publish(ReleaseStore(directory / "artifacts"), directory / "r1", "r1", Build())


def warm_up_rows(release: Release) -> list[dict]:
    """The rows of a complete warm-up, with the keys that its gate reads."""
    pairs = product(coverage_items(release), prompt_lengths(release))
    return [{"what": item.what, "prompt_tokens": length} for item, length in pairs]


def write_passed_runs(release: Release) -> None:
    results = [{"id": task, "task": task} for task in release.manifest.tasks]
    write_evidence(release, "warmup", passed=True, began_s=time.time(), record={"rows": warm_up_rows(release)})
    write_evidence(release, "smoke", passed=True, began_s=time.time(), record={"results": results})
    write_evaluation(release.directory, "judge.json")


def missing(release: Release, directory: Path, num_sign_offs: int = 0, board: BoardAccess | None = None) -> dict:
    results = check_gates(release, GateSources((), board, num_sign_offs, directory / "state", num_sign_offs))
    assert all(bool(result.missing) == bool(result.summary) for result in results)
    return {result.gate: result.missing for result in results if result.missing}


def test_a_release_with_complete_evidence_passes(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    assert missing(release, tmp_path) == {}


def test_a_release_without_evidence_lacks_all_of_it(tmp_path):
    release = write_release(tmp_path / "artifacts" / "releases" / "r1")
    assert set(missing(release, tmp_path, 2)) == {"build manifest", "alignment", "warm-up", "smoke", "sign-offs"}


@pytest.mark.parametrize("file", ["engine/rank0.engine", "schemas/label.json", "tokenizer/tokenizer_config.json"])
def test_a_changed_file_can_not_be_overridden(tmp_path, file):
    release = published(tmp_path)
    write_passed_runs(release)
    (release.directory / file).write_text('{"enum": [1]}')
    results = check_gates(release, GateSources((), None, 0, tmp_path))
    (found,) = [result for result in results if result.missing]
    assert found.is_absolute
    assert any(file in text or "engine.hash" in text for text in found.missing)


def test_a_failed_run_or_one_of_another_manifest_does_not_count(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    write_evidence(release, "smoke", passed=False, began_s=time.time(), record={})
    record = json.loads((release.directory / "warmup.json").read_text())
    (release.directory / "warmup.json").write_text(json.dumps(record | {"manifest_hash": "sha256:" + "0" * 64}))
    found = missing(release, tmp_path)
    assert "of another engine or manifest" in found["warm-up"][0]
    assert "failed" in found["smoke"][0]


def test_every_difference_to_the_evaluation_sides_manifests_is_listed(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    tree = json.loads((release.directory / "manifest.json").read_text())
    tree["thresholds"] |= {"max_queue_delay_us": 9_000, "max_cost_usd": 0.5}
    write_evaluation(release.directory, "rank.json", **tree)
    (release.directory / "module6" / "broken.json").write_text("{")
    found = missing(release, tmp_path)["alignment"]
    assert [text.split(":")[0] for text in found] == ["broken.json", "rank.json", "rank.json"]
    assert any("max_queue_delay_us: ours 2500, theirs 9000" in text for text in found)


def alignment(release: Release, directory: Path, *against: Path) -> tuple[str, ...]:
    results = check_gates(release, GateSources(against, None, 0, directory / "state"))
    return next(result.missing for result in results if result.gate == "alignment")


@pytest.mark.parametrize("rewrite", [lambda tree: tree, lambda tree: dict(reversed(tree.items()))])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_releases_own_manifest_is_not_the_evaluation_sides(tmp_path, rewrite, indent):
    release = published(tmp_path)
    own = release.directory / "manifest.json"
    (release.directory / "module6").mkdir()
    copy = release.directory / "module6" / "judge.json"
    copy.write_text(json.dumps(rewrite(json.loads(own.read_text())), indent=indent))
    for found in (alignment(release, tmp_path), alignment(release, tmp_path, own)):
        assert all("it is the release's own manifest or a copy" in text for text in found)
    assert [text.split(":")[0] for text in alignment(release, tmp_path, own)] == ["judge.json", "manifest.json"]
    shutil.copy(own, copy)
    assert len(alignment(release, tmp_path)) == 1
    write_evaluation(release.directory, "judge.json")
    assert alignment(release, tmp_path) == ()
    assert alignment(release, tmp_path, own) != ()


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({}, "evaluation.name: Field required"),
        ({"name": "", "evaluated_at": "2026-11-02T03:00:00Z"}, "evaluation.name: "),
        ({"name": "n", "evaluated_at": "yesterday"}, "evaluation.evaluated_at: "),
        ({"name": "n", "evaluated_at": "2026-11-02T03:00:00"}, "evaluation.evaluated_at: "),
        ({"name": "n", "evaluated_at": "2026-11-02T03:00:00Z", "more": 1}, "evaluation.more: "),
        ("nightly", "evaluation: "),
    ],
)
def test_an_evaluation_must_say_which_it_is_and_when_it_was(tmp_path, section, reason):
    release = published(tmp_path)
    write_evaluation(release.directory, evaluation=section)
    assert any(f"{reason}" in text for text in alignment(release, tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', "[" * 100_000, '{"evaluation": null}'])
def test_a_manifest_that_can_not_be_read_counts_as_different(tmp_path, text):
    release = published(tmp_path)
    write_evaluation(release.directory).write_text(text)
    assert alignment(release, tmp_path)


def test_a_manifest_that_names_no_evaluation_and_differs_reports_both(tmp_path):
    release = published(tmp_path)
    write_evaluation(release.directory, evaluation=None, on_cost_breach="reject")
    section, difference = alignment(release, tmp_path)
    assert "it has no section 'evaluation'" in section
    assert "on_cost_breach: ours 'notify', theirs 'reject'" in difference


def test_a_batch_size_above_four_needs_a_bench_gate_of_that_size(tmp_path):
    release = published(tmp_path, engine={"max_batch_size": 8})
    write_passed_runs(release)
    assert "llmstack bench gate --max-batch-size 8" in missing(release, tmp_path)["batch size"][0]
    write_evidence(release, "bench_gate", passed=True, began_s=0.0, record={"max_batch_size": 6})
    assert "of batch size 6" in missing(release, tmp_path)["batch size"][0]
    write_evidence(release, "bench_gate", passed=True, began_s=0.0, record={"max_batch_size": 8})
    assert missing(release, tmp_path) == {}


def test_a_warm_up_must_cover_every_length_task_and_schema(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    some = [row for row in warm_up_rows(release) if row != {"what": "task judge", "prompt_tokens": 4_096}]
    some = [row for row in some if row["what"] != "schema label"]
    write_evidence(release, "warmup", passed=True, began_s=0.0, record={"rows": some})
    found = missing(release, tmp_path)["warm-up"]
    assert [text.removeprefix("warmup.json: nothing of ").split(": ")[0] for text in found] == [
        "task judge at 4096 prompt tokens",
        "schema label at 16, 256, 1024, 4096 prompt tokens",
    ]
    write_evidence(release, "warmup", passed=True, began_s=0.0, record={})
    assert len(missing(release, tmp_path)["warm-up"]) == len(coverage_items(release))


def test_a_smoke_run_must_have_a_slice_of_each_task(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    results = [{"task": "judge"}, {"task": None}, {"task": "generate_json"}]
    write_evidence(release, "smoke", passed=True, began_s=0.0, record={"results": results})
    (found,) = missing(release, tmp_path)["smoke"]
    assert "nothing of task rank_candidates" in found


def test_a_bench_gate_without_a_batch_size_does_not_count(tmp_path):
    release = published(tmp_path, engine={"max_batch_size": 8})
    write_passed_runs(release)
    write_evidence(release, "bench_gate", passed=True, began_s=0.0, record={})
    assert "of batch size None" in missing(release, tmp_path)["batch size"][0]


def breach(directory: Path, rule: str, engine_hash: str, age_s: float) -> None:
    directory.mkdir(exist_ok=True)
    with closing(open_database(directory / FILE_NAME)) as connection, transaction(connection):
        alerts.record_breach(
            connection,
            alerts.AlertRule(rule, 0, engine_hash, "w4a8"),
            alerts.Breach(1),
            time.time_ns() - int(age_s * 1e9),
        )


@pytest.mark.parametrize(("rule", "blocks"), [("engine_unhealthy", True), ("schema_violation", True), ("cost", False)])
def test_an_alert_at_error_level_blocks_for_an_hour(tmp_path, rule, blocks):
    release = published(tmp_path)
    write_passed_runs(release)
    engine_hash = release.manifest.engine.hash
    breach(tmp_path / "state", rule, engine_hash, ALERT_WINDOW_S + 5)
    breach(tmp_path / "state", rule, "sha256:" + "0" * 64, 5)
    assert missing(release, tmp_path) == {}
    breach(tmp_path / "state", rule, engine_hash, ALERT_WINDOW_S - 60)
    found = missing(release, tmp_path)
    assert list(found) == (["alerts"] if blocks else [])
    assert not blocks or f"{rule} (1) 59 min ago" in found["alerts"][0]


def test_a_ledger_that_can_not_be_read_blocks(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE_NAME).write_bytes(b"not a database, but long enough to be read as one" * 20)
    assert "can't be read" in missing(release, tmp_path)["alerts"][0]


def test_requiring_fewer_sign_offs_than_configured_blocks(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    results = check_gates(release, GateSources((), None, 0, tmp_path / "state", min_sign_offs=2))
    (found,) = [result for result in results if result.missing]
    assert (found.gate, found.is_absolute) == ("sign-offs", False)
    assert found.missing == ("0 sign-offs required, 2 are configured here",)


class FixedAnswer(BaseHTTPRequestHandler):
    """A board that answers each call with the server's `body` and records the path in `asked`."""

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
def fixed_answer():
    with ThreadingHTTPServer(("127.0.0.1", 0), FixedAnswer) as server:
        server.asked, server.body = [], {"alerts": [], "signoffs": []}  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_an_alert_that_only_the_board_has_received_blocks_too(tmp_path, fixed_answer):
    release = published(tmp_path)
    write_passed_runs(release)
    (tmp_path / "token").write_text("x")
    access = BoardAccess(f"http://127.0.0.1:{fixed_answer.server_port}", tmp_path / "token")
    assert missing(release, tmp_path, 0, access) == {}
    asked = parse_qs(urlsplit(fixed_answer.asked[0]).query)
    assert asked["engine_hash"] == [release.manifest.engine.hash]
    assert abs(time.time() - ALERT_WINDOW_S - float(asked["since"][0])) < 60
    alert = {
        "count": 3,
        "window_start": "2026-01-01T00:00:00Z",
        "window_end": "2026-01-01T00:01:00Z",
        "phase": "summary",
    }
    fixed_answer.body["alerts"] = [{"rule": rule, **alert} for rule in ("queue_delay", "schema_violation")]
    (found,) = missing(release, tmp_path, 0, access)["alerts"]
    assert found.startswith("schema_violation (3) in the window of 2026-01-01T00:00:00Z, from the board")
    fixed_answer.body["alerts"] = [{"rule": "schema_violation"}]
    assert "can't be read" in missing(release, tmp_path, 0, access)["alerts"][0]


def test_the_board_must_have_enough_sign_offs_for_exactly_these_hashes(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    board_dir = tmp_path / "board"
    board_dir.mkdir()
    with live_board(board_dir, release.directory.parents[1]) as board:
        token_file = board_dir / "token"
        token_file.write_text(board.add_reader())
        access = BoardAccess(board.url, token_file)
        assert "0 of 2 sign-offs" in missing(release, tmp_path, 2, access)["sign-offs"][0]
        hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
        for name in ("Ada", "Grace"):
            sign(board.log_in(board.add(name)), hashes)
            found = missing(release, tmp_path, 2, access)
            assert bool(found) == (name == "Ada")
        results = check_gates(release, GateSources((), access, 2, tmp_path / "state"))
        assert [result.reviewers for result in results if result.reviewers] == [("Ada", "Grace")]
        token_file.write_text("wrong")
        assert "status 401" in missing(release, tmp_path, 2, access)["sign-offs"][0]


def test_sign_offs_from_before_a_rollback_in_the_journal_no_longer_count(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    with live_board(tmp_path, release.directory.parents[1], state_dir=tmp_path / "elsewhere") as board:
        (tmp_path / "token").write_text(board.add_reader())
        access = BoardAccess(board.url, tmp_path / "token")
        hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
        clients = [board.log_in(board.add(name)) for name in ("Ada", "Grace")]
        for client in clients:
            sign(client, hashes)
        assert missing(release, tmp_path, 2, access) == {}
        roll_back(tmp_path / "state", release)
        (found,) = missing(release, tmp_path, 2, access)["sign-offs"]
        assert found.startswith("0 of 2 sign-offs for engine ")
        assert ", given after it was rolled back at " in found
        assert found.endswith(": judge scores everything 7")
        for client in clients:  # the board does not know of the rollback: they withdraw and sign again
            client.post("/releases/r1/withdraw", data={**hashes, **hidden_fields(client)})
            sign(client, hashes)
        assert missing(release, tmp_path, 2, access) == {}


def test_a_rollback_that_only_the_board_knows_of_is_named_too(tmp_path, fixed_answer):
    release = published(tmp_path)
    write_passed_runs(release)
    (tmp_path / "token").write_text("x")
    access = BoardAccess(f"http://127.0.0.1:{fixed_answer.server_port}", tmp_path / "token")
    fixed_answer.body["signoffs"] = [{"reviewer": name, "signed_ns": 5} for name in ("Ada", "Grace", "Ada")]
    assert missing(release, tmp_path, 2, access) == {}
    fixed_answer.body["rolled_back"] = {"time_ns": 5, "cause": "too slow"}
    (found,) = missing(release, tmp_path, 2, access)["sign-offs"]
    assert found.endswith("given after it was rolled back at 1970-01-01T00:00:00Z: too slow")
    fixed_answer.body["rolled_back"] = {"time_ns": 4, "cause": "too slow"}
    assert missing(release, tmp_path, 2, access) == {}
    no_time, no_cause = {"signoffs": [{"reviewer": "Ada"}]}, {"signoffs": [], "rolled_back": {}}
    for wrong in (no_time | {"alerts": []}, no_cause | {"alerts": []}, []):
        fixed_answer.body = wrong
        assert "can't be read" in missing(release, tmp_path, 2, access)["sign-offs"][0]


def test_a_journal_that_can_not_be_read_leaves_no_sign_off_in_force(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE_NAME).write_bytes(b"not a database, but long enough to be read as one" * 20)
    assert "whether it was rolled back is not known" in missing(release, tmp_path, 2)["sign-offs"][0]
    assert "sign-offs" not in missing(release, tmp_path, 0)


def test_a_board_that_does_not_answer_blocks(tmp_path):
    release = published(tmp_path)
    write_passed_runs(release)
    (tmp_path / "token").write_text("x")
    access = BoardAccess("http://127.0.0.1:9", tmp_path / "token")
    assert "can't be read" in missing(release, tmp_path, 1, access)["sign-offs"][0]


def hidden_fields(client) -> dict[str, str]:
    page = client.get("/releases/r1").text
    return dict(re.findall(r'name="(csrf_token|evidence_hash|rolled_back_ns)" value="([^"]+)"', page))


def roll_back(state_dir: Path, release: Release) -> None:
    """A rollback from `release`, as the journal has it."""
    journal, ref = ReleaseJournal(state_dir), ReleaseRef.of(release)
    request = ChangeRequest(ROLLBACK, Path("current"), ref, ReleaseRef("r0"), reason="judge scores everything 7")
    change = journal.request(request, time.time_ns())
    journal.end(ChangeResult(change, COMPLETED), time.time_ns())


def sign(client, hashes: dict[str, str]) -> None:
    answer = client.post("/releases/r1/sign", data={**hashes, "comment": "", **hidden_fields(client)})
    assert answer.status_code == 200, answer.text


PASSED_FACTS = GateFacts(
    release="releases/r1",
    engine_hash="sha256:e",
    manifest_hash="sha256:m",
    max_batch_size=4,
    build_manifest_error="",
    alignments=(Alignment("judge.json", []),),
    runs=(RunFacts(WARMUP, PASSED), RunFacts(SMOKE, PASSED), RunFacts(BENCH_GATE, MISSING)),
    sign_offs=SignOffFacts(("Ada", "Grace"), 2),
    alerts=(),
)


def failing_gates(**facts) -> list[GateResult]:
    """The gates that fail for a release that passes them all but for these facts."""
    return [result for result in apply_gates(PASSED_FACTS._replace(**facts)) if result.missing or result.summary]


def with_run(run: RunFacts) -> list[RunFacts]:
    return [run if each.kind == run.kind else each for each in PASSED_FACTS.runs]


def test_every_gate_is_named_in_a_fixed_order_when_it_passes():
    assert apply_gates(PASSED_FACTS) == [
        GateResult("files", is_absolute=True),
        GateResult("build manifest"),
        GateResult("alignment"),
        GateResult("warm-up"),
        GateResult("smoke"),
        GateResult("batch size"),
        GateResult("alerts"),
        GateResult("sign-offs", reviewers=("Ada", "Grace")),
    ]


def test_differences_of_files_are_listed_alike_in_both_forms():
    differences = ("engine/rank0.engine: missing", "schemas/label.json: differs")
    assert failing_gates(file_differences=list(differences)) == [
        GateResult("files", differences, differences, is_absolute=True)
    ]


def test_a_missing_build_manifest_names_the_error_and_the_command_that_writes_it():
    assert failing_gates(build_manifest_error="build_manifest.json: No such file or directory") == [
        GateResult(
            "build manifest",
            ("build_manifest.json: No such file or directory: llmstack release publish releases/r1",),
            ("the build manifest: llmstack release publish",),
        )
    ]


def test_a_release_without_manifests_of_the_evaluation_side_reports_where_to_put_them():
    assert failing_gates(alignments=()) == [
        GateResult(
            "alignment",
            (
                "no manifest of the evaluation side: put the one that the evaluation of this release wrote into "
                "releases/r1/module6/, or name it with --against",
            ),
            ("a manifest of the evaluation side to compare with",),
        )
    ]


def test_the_summary_of_the_alignment_counts_the_manifests_that_differ():
    alignments = (
        Alignment("judge.json", []),
        Alignment("rank.json", ["a: ours 1, theirs 2", "b: ours 3, theirs 4"]),
        Alignment("write.json", ["a: ours 1, theirs 5"]),
    )
    assert failing_gates(alignments=alignments) == [
        GateResult(
            "alignment",
            ("rank.json: a: ours 1, theirs 2", "rank.json: b: ours 3, theirs 4", "write.json: a: ours 1, theirs 5"),
            ("alignment with 2 of 3 manifests",),
        )
    ]


@pytest.mark.parametrize(("kind", "gate"), [(WARMUP, "warm-up"), (SMOKE, "smoke")])
@pytest.mark.parametrize("status", [MISSING, FAILED, STALE])
def test_a_run_that_has_not_passed_reports_its_status_and_command(kind, gate, status):
    assert failing_gates(runs=with_run(RunFacts(kind, status))) == [
        GateResult(
            gate,
            (f"{kind}.json: {status}: llmstack {kind} --release releases/r1",),
            (f"{kind} ({status}): llmstack {kind}",),
        )
    ]


def test_a_run_that_covers_too_little_is_incomplete_and_lists_each_part():
    run = RunFacts(WARMUP, PASSED, ("task judge", "schema label"))
    assert failing_gates(runs=with_run(run)) == [
        GateResult(
            "warm-up",
            (
                "warmup.json: nothing of task judge: llmstack warmup --release releases/r1",
                "warmup.json: nothing of schema label: llmstack warmup --release releases/r1",
            ),
            ("warmup (incomplete: nothing of task judge; schema label): llmstack warmup",),
        )
    ]


def test_the_summary_of_a_failed_run_counts_the_failed_rows():
    (result,) = failing_gates(runs=with_run(RunFacts(SMOKE, FAILED, num_rows=20, num_failed_rows=1)))
    assert result.summary == ("smoke (failed, 1 of 20 rows): llmstack smoke",)


@pytest.mark.parametrize("benched", [5, 6])
def test_a_passed_bench_gate_of_at_least_the_batch_size_passes(benched):
    runs = with_run(RunFacts(BENCH_GATE, PASSED, max_batch_size=benched))
    results = apply_gates(PASSED_FACTS._replace(max_batch_size=5, runs=runs))
    assert results == apply_gates(PASSED_FACTS)


@pytest.mark.parametrize(
    ("bench", "status", "summary"),
    [
        (RunFacts(BENCH_GATE, MISSING), "missing", "missing"),
        (RunFacts(BENCH_GATE, FAILED, max_batch_size=5), "failed", "failed"),
        (RunFacts(BENCH_GATE, PASSED, max_batch_size=4), "of batch size 4", "passed"),
        (RunFacts(BENCH_GATE, PASSED, max_batch_size="5"), "of batch size 5", "passed"),
    ],
)
def test_a_batch_size_of_five_without_a_bench_gate_for_it_names_the_command(bench, status, summary):
    missing_text = (
        f"engine.max_batch_size is 5, above 4, and bench_gate.json is {status}: "
        "llmstack bench gate --max-batch-size 5 --release releases/r1"
    )
    assert failing_gates(max_batch_size=5, runs=with_run(bench)) == [
        GateResult("batch size", (missing_text,), (f"bench_gate ({summary}): llmstack bench gate",))
    ]


def test_alerts_are_listed_one_by_one_and_summarised_by_rule():
    alerts = (OpenAlert("cost", "cost (1) 5 min ago"), OpenAlert("cost", "cost (2) 3 min ago"))
    assert failing_gates(alerts=alerts) == [
        GateResult(
            "alerts",
            (
                "cost (1) 5 min ago: find the cause; it counts for 60 min",
                "cost (2) 3 min ago: find the cause; it counts for 60 min",
            ),
            ("an end to the open alert cost",),
        )
    ]


def test_alerts_that_are_not_known_block_with_the_error():
    error = "the ledger in state can't be read: disk I/O error"
    assert failing_gates(alerts_error=error) == [GateResult("alerts", (error,), (error,))]


@pytest.mark.parametrize(
    ("reviewers", "missing_text", "summary"),
    [
        ((), "0 of 3 sign-offs for engine sha256:e and manifest sha256:m", "3 more of 3 sign-offs"),
        (
            ("Ada", "Grace"),
            "2 of 3 sign-offs for engine sha256:e and manifest sha256:m (Ada, Grace)",
            "1 more of 3 sign-offs",
        ),
    ],
)
def test_too_few_sign_offs_name_both_hashes_and_those_who_signed(reviewers, missing_text, summary):
    assert failing_gates(sign_offs=SignOffFacts(reviewers, 3)) == [
        GateResult("sign-offs", (missing_text,), (summary,), reviewers=reviewers)
    ]


def test_sign_offs_after_a_rollback_name_it_and_its_cause():
    rollback = Rollback(ReleaseRef(), 1_000_000_000, "too slow")
    text = "1 of 2 sign-offs for engine sha256:e and manifest sha256:m (Ada), given after it was rolled back at "
    assert failing_gates(sign_offs=SignOffFacts(("Ada",), 2, rollback=rollback)) == [
        GateResult(
            "sign-offs",
            (f"{text}1970-01-01T00:00:01Z: too slow",),
            ("1 more of 2 sign-offs, since it was rolled back",),
            reviewers=("Ada",),
        )
    ]
    assert rollback._replace(cause="").text == "rolled back at 1970-01-01T00:00:01Z: no cause on record"
    assert failing_gates(sign_offs=SignOffFacts(("Ada", "Grace"), 2, rollback=rollback)) == []


def test_sign_offs_that_are_not_known_and_too_few_required_are_both_reported():
    found = ("the board can't be read", "1 sign-offs required, 2 are configured here")
    assert failing_gates(sign_offs=SignOffFacts((), 1, 2, found[0])) == [GateResult("sign-offs", found, found)]


def test_as_many_required_sign_offs_as_configured_pass():
    assert failing_gates(sign_offs=SignOffFacts(("Ada", "Grace"), 2, 2)) == []
