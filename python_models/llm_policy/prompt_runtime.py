"""The interface to the evaluation side ("Module 6"): a release's engine, tokenizer, thresholds, tasks and schemas."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llm_policy.release.manifest import Manifest, ManifestError, parse_manifest, read_manifest
from llm_policy.release.release import Release


class Difference(NamedTuple):
    """One key in which two manifests differ; None on the side that lacks the key."""

    key: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.key}: ours {self.ours!r}, theirs {self.theirs!r}"


class PromptRuntimeManager:
    """The runtime description of one release.

    Raises:
        ReleaseError: there is no such release, or its manifest is invalid.
    """

    def __init__(self, release: Release | str | os.PathLike[str]) -> None:
        self.release = release if isinstance(release, Release) else Release.open(release)

    def summary(self) -> dict[str, Any]:
        """engine_hash, quantisation, tokenizer_info_hash, thresholds, tasks, schemas with hashes, manifest_hash.

        Raises:
            ReleaseError: a registered schema can't be read.
        """
        manifest = self.release.manifest
        return {
            "engine_hash": manifest.engine.hash,
            "quantisation": manifest.engine.quantisation,
            "model": manifest.engine.model,
            "tokenizer_info_hash": manifest.tokenizer.info_hash,
            "thresholds": manifest.thresholds.model_dump(),
            "tasks": {name: task.model_dump(exclude_none=True) for name, task in manifest.tasks.items()},
            "schemas": {name: self._schema_hash(name) for name in sorted(manifest.schemas)},
            "manifest_hash": self.release.manifest_hash,
        }

    def verify(self, other: Manifest | Mapping[str, Any] | str | os.PathLike[str]) -> list[Difference]:
        """Every difference between this release's manifest and `other`, by key.

        `other` is a manifest, its parsed JSON, or the path of its file. An empty list means that they agree.

        Raises:
            ManifestError: `other` is not a valid manifest.
        """
        ours, theirs = _flatten(self.release.manifest), _flatten(_as_manifest(other))
        keys = sorted(ours.keys() | theirs.keys())
        return [Difference(key, ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)]

    def _schema_hash(self, name: str) -> str:
        return "sha256:" + hashlib.sha256(self.release.schema_text(name).encode()).hexdigest()


def _as_manifest(other: Manifest | Mapping[str, Any] | str | os.PathLike[str]) -> Manifest:
    if isinstance(other, Manifest):
        return other
    if isinstance(other, Mapping):
        try:
            return parse_manifest(orjson.dumps(dict(other)))
        except TypeError as error:
            raise ManifestError(f"manifest: not a JSON value: {error}") from None
    return read_manifest(Path(other))[0]


def _flatten(manifest: Manifest) -> dict[str, Any]:
    """The manifest as `section.key` → value."""
    return dict(_leaves("", manifest.model_dump()))


def _leaves(prefix: str, tree: Any) -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, value in tree.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, value)]
