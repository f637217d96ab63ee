"""A warm-up has to cover the prompt lengths that the release admits."""

import json

from llm_policy.release.release import Release
from llmstack.release.coverage import prompt_lengths
from tests.releases import change_manifest, write_release


def test_prompt_lengths_are_capped_at_the_releases_limit(tmp_path):
    release = write_release(tmp_path / "r1")
    assert prompt_lengths(release) == [16, 256, 1_024, 4_096]
    tree = json.loads((release.directory / "manifest.json").read_text())
    change_manifest(release.directory, thresholds={**tree["thresholds"], "max_prompt_tokens": 300})
    assert prompt_lengths(Release.open(release.directory)) == [16, 256, 300]
