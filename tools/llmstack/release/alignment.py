"""A release against the manifests that the evaluation side ("Module 6") runs with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llm_policy.prompt_runtime import PromptRuntimeManager
from llm_policy.release.manifest import ManifestError
from llm_policy.release.release import Release
from llmstack.release.build_manifest import MODULE6


class Alignment(NamedTuple):
    """One manifest of the evaluation side against ours; no differences is aligned."""

    file: str
    differences: list[str]


def read_alignments(release: Release, against: Sequence[Path] = ()) -> list[Alignment]:
    """Every manifest in the release's `MODULE6` directory, then those of `against`; one that can't be read differs."""
    runtime = PromptRuntimeManager(release)
    files = [*sorted((release.directory / MODULE6).glob("*.json")), *against]
    return [_alignment(runtime, file) for file in files]


def _alignment(runtime: PromptRuntimeManager, file: Path) -> Alignment:
    try:
        return Alignment(file.name, [str(difference) for difference in runtime.verify(file)])
    except (ManifestError, OSError) as error:
        return Alignment(file.name, [str(error)])
