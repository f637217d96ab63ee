"""The evaluation side's manifest: what the evaluation ran with, written by the evaluation.

It has the sections of a runtime manifest, and besides them `evaluation`, which names the run that it describes. A
release's own manifest lacks that section, so neither it nor a copy of it says that anybody evaluated the release.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from llm_policy.release.manifest import Manifest, ManifestError, parse_manifest

SECTION = "evaluation"
_MAX_BYTES = 16 << 20
_Text = Annotated[str, Field(min_length=1, max_length=512)]


class Evaluation(BaseModel):
    """The run of the evaluation: its name, when it ended, and where its results are (a commit, a URL)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Text
    evaluated_at: AwareDatetime
    results: Annotated[str, Field(max_length=512)] = ""


class EvaluationManifest(NamedTuple):
    """A manifest of the evaluation side; `evaluation` is None when the section is missing."""

    evaluation: Evaluation | None
    manifest: Manifest


def read_evaluation_manifest(path: Path) -> EvaluationManifest:
    """Read the manifest at `path`.

    Raises:
        ManifestError: it is not JSON, a key appears twice, or a value is not allowed; one line for each invalid key.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        raw = file.read(_MAX_BYTES)
    try:
        tree = json.loads(raw, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"manifest: invalid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ManifestError("manifest: not a JSON object")
    section = tree.pop(SECTION, None)
    return EvaluationManifest(None if section is None else _evaluation(section), parse_manifest(json.dumps(tree)))


def _evaluation(section: Any) -> Evaluation:
    try:
        return Evaluation.model_validate(section)
    except ValidationError as error:
        lines = (".".join((SECTION, *map(str, each["loc"]))) + f": {each['msg']}" for each in error.errors())
        raise ManifestError("\n".join(lines)) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return tree
