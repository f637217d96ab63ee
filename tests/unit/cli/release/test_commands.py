"""`llmstack release`: candidates are published whole, and every command reports the actual state."""

import json
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from llm_policy.release.release import Release
from llmstack.cli.app import app
from llmstack.paths import PROJECT_ROOT
from llmstack.release.change import COMPLETED, PROMOTION, ROLLBACK, ChangeRequest, ChangeResult, ReleaseRef
from llmstack.release.journal import ReleaseJournal
from llmstack.release.store import ReleaseStore, point_link
from tests.releases import change_manifest, update_manifest_hashes, write_release


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMSTACK_ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    monkeypatch.setenv("LLMSTACK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return ReleaseStore(tmp_path / "artifacts")


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, ["release", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result


def run_json(*arguments, exit_code=0):
    return json.loads(run(*arguments, "--json", exit_code=exit_code).stdout)


def test_a_release_from_elsewhere_is_copied_and_described(store, tmp_path):
    write_release(tmp_path / "built")
    run("publish", tmp_path / "built", "--name", "r1", "--build-command", "make", "--source-commit", "abc")
    manifest = json.loads((store.directory("r1") / "build_manifest.json").read_text())
    assert manifest["build"] == {"command": "make", "source_commit": "abc", "tensorrt_llm_version": ""}
    assert (manifest["release"], manifest["model"], manifest["quantisation"]) == ("r1", "Qwen3-32B", "w4a8")
    assert "engine/rank0.engine" in [file["path"] for file in manifest["files"]]
    assert [path.name for path in store.releases_dir.iterdir()] == ["r1"]


def test_a_taken_name_and_a_broken_release_are_errors_and_leave_no_files(store, tmp_path):
    write_release(tmp_path / "built")
    run("publish", tmp_path / "built", "--name", "r1")
    assert "already" in run("publish", tmp_path / "built", "--name", "r1", exit_code=2).output
    (tmp_path / "built" / "engine" / "config.json").write_text("[]")
    assert "engine.hash" in run("publish", tmp_path / "built", "--name", "r2", exit_code=2).output
    assert store.names() == ["r1"]


def test_an_existing_build_manifest_must_match_the_files(store, tmp_path):
    write_release(tmp_path / "built")
    run("publish", tmp_path / "built", "--name", "r1")
    run("publish", store.directory("r1"))
    (store.directory("r1") / "tokenizer" / "tokenizer_config.json").write_text("{}")
    rejected = run("publish", store.directory("r1"), exit_code=2)
    assert "tokenizer/tokenizer_config.json: differs from the build manifest" in rejected.output
    assert "a published release does not change" in rejected.output


@pytest.mark.parametrize("place", ["built", "artifacts/releases/built"])
def test_a_modified_copy_of_a_release_is_told_to_delete_the_build_manifest(store, tmp_path, place):
    write_release(tmp_path / "first")
    run("publish", tmp_path / "first", "--name", "r1")
    copy = tmp_path / place
    shutil.copytree(store.directory("r1"), copy)
    change_manifest(copy, on_cost_breach="reject")
    rejected = run("publish", copy, exit_code=2)
    assert "manifest.json: differs from the build manifest" in rejected.output
    assert f"delete {copy / 'build_manifest.json'}" in rejected.output
    (copy / "build_manifest.json").unlink()
    run("publish", copy)
    assert store.is_published("built")


def test_the_list_marks_the_release_in_service_and_broken_ones(store, tmp_path):
    for name in ("r1", "r2", "r3"):
        write_release(store.releases_dir / name)
    run("publish", store.directory("r2"))
    (store.directory("r3") / "manifest.json").write_text("{")
    point_link(store.link, store.directory("r1"))
    states = {row["release"]: row["state"] for row in run_json("list")}
    assert (states["r1"], states["r2"]) == ("in service", "candidate")
    assert states["r3"].startswith("broken: ")
    assert "in service" in run("list").stdout


def test_two_releases_are_compared_by_key_and_by_file(store):
    for name in ("r1", "r2"):
        write_release(store.releases_dir / name)
    assert run_json("diff", "r1", "r2") == {"manifest": [], "files": {}}
    tree = json.loads((store.directory("r2") / "manifest.json").read_text())
    change_manifest(store.directory("r2"), thresholds={**tree["thresholds"], "max_queue_delay_us": 9_000})
    (store.directory("r2") / "engine" / "more").write_text("x")
    found = run_json("diff", "r1", "r2", exit_code=1)
    assert found["manifest"] == [{"key": "thresholds.max_queue_delay_us", "ours": 2_500, "theirs": 9_000}]
    assert found["files"] == {"engine/more": "only in the second", "manifest.json": "differs"}


def test_an_unknown_release_is_an_error_that_lists_the_existing_ones(store):
    write_release(store.releases_dir / "r1")
    for command in (("status", "r9"), ("diff", "r1", "r9"), ("promote", "r9")):
        assert "known: r1" in run(*command, exit_code=2).output


def test_promote_lists_everything_missing_and_changes_nothing(store):
    for name in ("r1", "r2"):
        write_release(store.releases_dir / name)
    point_link(store.link, store.directory("r1"))
    rejected = run_json("promote", "r2", exit_code=1)
    assert set(rejected["missing"]) == {"build manifest", "alignment", "warm-up", "smoke", "sign-offs"}
    assert "is in service already" in run("promote", "r1", exit_code=2).output
    assert "--override has no reason" in run("promote", "r2", "--override", " ", exit_code=2).output
    assert store.in_service().name == "r1"
    assert run_json("history") == []


def test_a_rollback_needs_a_cause_and_a_previous_release(store):
    write_release(store.releases_dir / "r1")
    point_link(store.link, store.directory("r1"))
    assert "--root-cause is empty" in run("rollback", "--root-cause", "", exit_code=2).output
    assert "no release to return to" in run("rollback", "--root-cause", "bad", exit_code=1).output
    assert run_json("status") == {"in_service": "r1", "rollback_leads_to": None, "under_way": None}


def publish_and_promote(store, tmp_path, *names):
    """Publish two releases and promote the second over the first, in the journal and on disk."""
    for name in names:
        write_release(store.releases_dir / name)
        run("publish", store.directory(name))
    source, target = (ReleaseRef.of(Release.open(store.directory(name))) for name in names)
    journal = ReleaseJournal(tmp_path / "state")
    journal.end(ChangeResult(journal.request(ChangeRequest(PROMOTION, store.link, source, target), 0), COMPLETED), 1)
    point_link(store.link, store.directory(names[-1]))
    return journal


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("schemas/label.json", '{"enum": ["C"]}', "schemas/label.json: differs from the build manifest"),
        ("tokenizer/chat_template.jinja", "{{ messages }}", "tokenizer/chat_template.jinja: not in the build manifest"),
        ("build_manifest.json", "{}", "the manifests of r1 are not those that were in service"),
    ],
)
def test_a_rollback_is_rejected_when_its_target_has_changed(store, tmp_path, file, text, reason):
    journal = publish_and_promote(store, tmp_path, "r1", "r2")
    (store.directory("r1") / file).write_text(text)
    assert reason in run("rollback", "--root-cause", "bad", exit_code=1).output
    assert journal.open_change() is None


def test_a_link_that_can_not_be_switched_is_an_error_before_the_change_is_requested(store, tmp_path):
    journal = publish_and_promote(store, tmp_path, "r1", "r2")
    (store.link.parent / ".current.new").mkdir()
    for command in (
        ("rollback", "--root-cause", "bad"),
        ("promote", "r1", "--override", "test", "--required-sign-offs", "0"),
    ):
        assert "can't be switched" in run(*command, exit_code=2).output
    assert journal.open_change() is None


def test_fewer_sign_offs_than_configured_need_an_override(store, monkeypatch):
    for name in ("r1", "r2"):
        write_release(store.releases_dir / name)
    point_link(store.link, store.directory("r1"))
    promote = ("promote", "r2", "--required-sign-offs", "0")
    assert "0 sign-offs required, 2 are" in run_json(*promote, exit_code=1)["missing"]["sign-offs"][0]
    monkeypatch.setenv("LLMSTACK_REQUIRED_SIGN_OFFS", "0")
    assert "sign-offs" not in run_json("promote", "r2", exit_code=1)["missing"]


def test_each_command_reports_a_broken_ledger_with_a_next_step(store, tmp_path):
    write_release(store.releases_dir / "r1")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.db").write_bytes(b"this is not a database, but long enough to be one " * 20)
    for command in (("history",), ("status",), ("promote", "r1"), ("rollback", "--root-cause", "bad")):
        output = run(*command, exit_code=1).output
        assert "ledger.db in the state directory, can't be used" in output
        assert "next: " in output


def test_a_link_inside_a_release_is_an_error_of_diff(store):
    for name in ("r1", "r2"):
        write_release(store.releases_dir / name)
    (store.directory("r2") / "schemas" / "more.json").symlink_to("label.json")
    assert "schemas/more.json is not a regular file" in run("diff", "r1", "r2", exit_code=2).output


def test_temporary_files_of_a_killed_check_are_not_files_of_the_release(store, tmp_path):
    write_release(store.releases_dir / "r1")
    run("publish", store.directory("r1"))
    for name in ("warmup.json.new", "smoke.json.new", "build_manifest.json.new"):
        (store.directory("r1") / name).write_text("{")
    run("publish", store.directory("r1"))


def test_a_full_disk_is_reported_and_leaves_no_partial_copy(store, tmp_path):
    write_release(tmp_path / "built")
    (tmp_path / "built" / "engine" / "rank0.engine").write_bytes(b"x" * (1 << 20))
    update_manifest_hashes(tmp_path / "built")
    store.releases_dir.mkdir(parents=True)
    mount = ("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(store.releases_dir))
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        output = run("publish", tmp_path / "built", "--name", "r1", exit_code=1).output
        assert "No space left on device" in output and "None" not in output
        assert list(store.releases_dir.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(store.releases_dir)], check=True)


def test_the_list_marks_a_release_that_was_rolled_back(store, tmp_path):
    publish_and_promote(store, tmp_path, "r1", "r2")
    source, target = (ReleaseRef.of(Release.open(store.directory(name))) for name in ("r2", "r1"))
    change = ChangeRequest(ROLLBACK, store.link, source, target, reason="bad answers")
    journal = ReleaseJournal(tmp_path / "state")
    journal.end(ChangeResult(journal.request(change, 2), COMPLETED), 3)
    point_link(store.link, store.directory("r1"))
    states = {row["release"]: row["state"] for row in run_json("list")}
    assert states == {"r1": "in service", "r2": "rolled back"}
    assert run_json("status", "r2", exit_code=1)["rolled_back"] == {
        "at": "1970-01-01T00:00:00Z",
        "cause": "bad answers",
    }
    assert "1970-01-01T00:00:00Z: bad answers; sign-offs from before" in run("status", "r2", exit_code=1).stdout


def test_status_names_the_evaluation_sides_manifest_as_the_documentation_does(store):
    write_release(store.releases_dir / "r1")
    shown = run("status", "r1", exit_code=1).stdout
    assert "no manifest of the evaluation side: put the one that the evaluation of this release wrote" in shown
    assert "Module 6" not in shown
    assert "The evaluation side's manifest" in (PROJECT_ROOT / "docs" / "releases.md").read_text()
