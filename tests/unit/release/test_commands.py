"""What an operator types: candidates come in whole, and what is said of them is what is there."""

import json

import pytest
from typer.testing import CliRunner

from llmstack.__main__ import app
from llmstack.release.store import ReleaseStore, point_link
from tests.releases import change_manifest, write_release


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


def test_what_lies_elsewhere_is_copied_and_described(store, tmp_path):
    write_release(tmp_path / "built")
    run("publish", tmp_path / "built", "--name", "r1", "--build-command", "make", "--source-commit", "abc")
    manifest = json.loads((store.directory("r1") / "build_manifest.json").read_text())
    assert manifest["build"] == {"command": "make", "source_commit": "abc", "tensorrt_llm_version": ""}
    assert (manifest["release"], manifest["model"], manifest["quantisation"]) == ("r1", "Qwen3-32B", "w4a8")
    assert "engine/rank0.engine" in [file["path"] for file in manifest["files"]]
    assert [path.name for path in store.releases_dir.iterdir()] == ["r1"]


def test_a_taken_name_and_a_broken_release_are_refused_and_leave_nothing(store, tmp_path):
    write_release(tmp_path / "built")
    run("publish", tmp_path / "built", "--name", "r1")
    assert "already" in run("publish", tmp_path / "built", "--name", "r1", exit_code=2).output
    (tmp_path / "built" / "engine" / "config.json").write_text("[]")
    assert "engine.hash" in run("publish", tmp_path / "built", "--name", "r2", exit_code=2).output
    assert store.names() == ["r1"]


def test_a_build_manifest_that_is_there_must_hold(store, tmp_path):
    write_release(tmp_path / "built")
    run("publish", tmp_path / "built", "--name", "r1")
    run("publish", store.directory("r1"))
    (store.directory("r1") / "tokenizer" / "tokenizer_config.json").write_text("{}")
    refused = run("publish", store.directory("r1"), exit_code=2)
    assert "tokenizer/tokenizer_config.json: not as it was built" in refused.output


def test_the_list_says_which_one_is_in_service_and_which_one_is_broken(store, tmp_path):
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


def test_a_release_that_is_not_there_is_answered_with_those_that_are(store):
    write_release(store.releases_dir / "r1")
    for command in (("status", "r9"), ("diff", "r1", "r9"), ("promote", "r9")):
        assert "there: r1" in run(*command, exit_code=2).output


def test_promote_lists_all_that_is_missing_and_changes_nothing(store):
    for name in ("r1", "r2"):
        write_release(store.releases_dir / name)
    point_link(store.link, store.directory("r1"))
    refused = run_json("promote", "r2", exit_code=1)
    assert set(refused["missing"]) == {"build manifest", "alignment", "warm-up", "smoke", "sign-offs"}
    assert "is in service already" in run("promote", "r1", exit_code=2).output
    assert "--override has no reason" in run("promote", "r2", "--override", " ", exit_code=2).output
    assert store.in_service().name == "r1"
    assert run_json("history") == []


def test_a_rollback_needs_a_cause_and_something_to_go_back_to(store):
    write_release(store.releases_dir / "r1")
    point_link(store.link, store.directory("r1"))
    assert "--root-cause is empty" in run("rollback", "--root-cause", "", exit_code=2).output
    assert "nothing to go back to" in run("rollback", "--root-cause", "bad", exit_code=1).output
    assert run_json("status") == {"in_service": "r1", "rollback_leads_to": None, "under_way": None}
