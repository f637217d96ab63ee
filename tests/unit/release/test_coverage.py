"""A warm-up has to cover the prompt lengths that the release admits."""

import json

from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llmstack.release.coverage import coverage_items, find_uncovered, prompt_lengths
from llmstack.release.evidence import SMOKE
from llmstack.supervision.canary import warm_up_inputs
from tests.manifests import manifest_tree
from tests.releases import change_manifest, write_release


def test_prompt_lengths_are_capped_at_the_releases_limit(tmp_path):
    release = write_release(tmp_path / "r1")
    assert prompt_lengths(release) == [16, 256, 1_024, 4_096]
    tree = json.loads((release.directory / "manifest.json").read_text())
    change_manifest(release.directory, thresholds={**tree["thresholds"], "max_prompt_tokens": 300})
    assert prompt_lengths(Release.open(release.directory)) == [16, 256, 300]


def test_a_releases_own_task_is_warmed_up_but_needs_no_slice(tmp_path):
    release = write_release(tmp_path / "r1", tasks={**manifest_tree()["tasks"], "summarise": {"temperature": 0.7}})
    assert "task summarise" in [item.what for item in coverage_items(release)]
    assert "task summarise" in warm_up_inputs(release)
    assert find_uncovered(release, SMOKE, {"results": [{"task": task} for task in TASKS]}) == []
    assert find_uncovered(release, SMOKE, {"results": [{"task": "summarise"}]}) == [f"task {task}" for task in TASKS]
