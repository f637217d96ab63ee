"""The interface to the evaluation side: a release's summary and its differences from another manifest."""

import hashlib
import json

import pytest

from llm_policy.prompt_runtime import Difference, PromptRuntimeManager
from llm_policy.release.manifest import ManifestError
from llm_policy.release.release import ReleaseError
from tests.manifests import manifest_tree
from tests.releases import write_release


def sha256(raw):
    return "sha256:" + hashlib.sha256(raw).hexdigest()


@pytest.fixture
def runtime(tmp_path):
    return PromptRuntimeManager(write_release(tmp_path / "release"))


@pytest.fixture
def tree(runtime):
    return json.loads((runtime.release.directory / "manifest.json").read_text())


def test_the_summary_holds_hashes_thresholds_tasks_and_schemas(runtime, tree):
    directory = runtime.release.directory
    assert runtime.summary() == {
        "engine_hash": tree["engine"]["hash"],
        "quantisation": "w4a8",
        "model": "Qwen3-32B",
        "tokenizer_info_hash": sha256((directory / "tokenizer_info.json").read_bytes()),
        "thresholds": {
            "max_queue_delay_us": 2_500,
            "max_prompt_tokens": 4_096,
            "max_tokens": 6_000,
            "max_cost_usd": 0.10,
        },
        "tasks": {
            "generate_json": {"temperature": 0.0},
            "rank_candidates": {"temperature": 0.0},
            "judge": {"temperature": 0.1, "top_p": 0.9},
        },
        "schemas": {name: sha256((directory / f"schemas/{name}.json").read_bytes()) for name in ("label", "verdict")},
        "manifest_hash": sha256((directory / "manifest.json").read_bytes()),
    }


def test_the_summary_is_plain_json(runtime):
    assert json.loads(json.dumps(runtime.summary())) == runtime.summary()


def test_a_changed_schema_changes_the_summary(runtime):
    before = runtime.summary()["schemas"]["label"]
    (runtime.release.directory / "schemas" / "label.json").write_text('{"enum": ["C"]}')
    assert runtime.summary()["schemas"]["label"] != before


def test_a_missing_schema_is_an_error_not_an_omission(runtime):
    (runtime.release.directory / "schemas" / "label.json").unlink()
    with pytest.raises(ReleaseError, match=r"^schemas\.label: "):
        runtime.summary()


def test_a_release_agrees_with_its_own_manifest_in_every_form(runtime, tree):
    path = runtime.release.directory / "manifest.json"
    for other in (path, str(path), tree, runtime.release.manifest):
        assert runtime.verify(other) == []


def test_an_explicit_default_is_not_a_difference(runtime, tree):
    del tree["thresholds"], tree["guidance"], tree["on_cost_breach"], tree["engine"]["max_batch_size"]
    assert runtime.verify(tree) == []


def test_every_difference_is_listed_by_key_with_both_sides(runtime, tree):
    tree["engine"]["quantisation"] = "fp8"
    tree["thresholds"]["max_queue_delay_us"] = 9
    tree["prices"]["input_usd_per_million"] = 0.2
    tree["on_cost_breach"] = "reject"
    tree["tasks"]["judge"] = {"temperature": 0.1, "schema_id": "verdict"}
    del tree["schemas"]["label"]
    tree["guidance"]["limits"]["max_depth"] = 7
    assert runtime.verify(tree) == [
        Difference("engine.quantisation", "w4a8", "fp8"),
        Difference("guidance.limits.max_depth", 96, 7),
        Difference("on_cost_breach", "notify", "reject"),
        Difference("prices.input_usd_per_million", 0.1, 0.2),
        Difference("schemas.label", "schemas/label.json", None),
        Difference("tasks.judge.schema_id", None, "verdict"),
        Difference("tasks.judge.top_p", 0.9, None),
        Difference("thresholds.max_queue_delay_us", 2_500, 9),
    ]


def test_a_difference_reads_as_a_sentence():
    assert str(Difference("engine.model", "a", "b")) == "engine.model: ours 'a', theirs 'b'"


def test_an_invalid_manifest_is_rejected_not_compared(runtime):
    with pytest.raises(ManifestError, match="tokens: unknown key"):
        runtime.verify(manifest_tree(tokens=1))


def test_a_manifest_that_is_not_a_json_value_is_rejected(runtime):
    with pytest.raises(ManifestError, match="not a JSON value"):
        runtime.verify(manifest_tree(tokens={1, 2}))


def test_a_missing_manifest_file_is_rejected(runtime, tmp_path):
    with pytest.raises(ManifestError, match="No such file or directory"):
        runtime.verify(tmp_path / "nowhere.json")
