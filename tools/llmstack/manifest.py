"""`llmstack manifest`: write a release's runtime manifest, prove it, and show what it promises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llm_policy.digest import engine_hash, file_digest
from llm_policy.manifest import TASKS, Manifest, ManifestError, parse_manifest
from llm_policy.prompt_runtime import Difference, PromptRuntimeManager
from llm_policy.release import Release, ReleaseError
from llmstack.terminal import DIFFERENT, fail, print_json

DEFAULT_RELEASE_DIR = Path("artifacts/current")
TASK_SAMPLING: dict[str, dict[str, Any]] = {
    "generate_json": {"temperature": 0.0},
    "rank_candidates": {"temperature": 0.0},
    "judge": {"temperature": 0.1, "top_p": 0.9},
}


def describe_release(directory: Path, settings: Mapping[str, Any]) -> Manifest:
    """The manifest of the files in `directory`: hashes and schemas from disk, all else from `settings`.

    `settings` has the manifest's own keys; `engine` and `tokenizer` lack their hashes.

    Raises:
        ReleaseError: the engine or the tokenizer info is missing.
        ManifestError: a setting is not allowed.
    """
    engine = directory / "engine.plan" if (directory / "engine.plan").exists() else directory / "engine"
    try:
        hashes = engine_hash(engine), "sha256:" + file_digest(directory / "tokenizer_info.json")
    except OSError as error:
        raise ReleaseError(str(error)) from None
    schemas = {path.stem: path.relative_to(directory).as_posix() for path in sorted(directory.glob("schemas/*.json"))}
    tree = {
        **settings,
        "engine": {"hash": hashes[0], **settings["engine"]},
        "tokenizer": {"info_hash": hashes[1]},
        "schemas": schemas,
    }
    return parse_manifest(json.dumps(tree))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The bytes of manifest.json: keys in the manifest's own order, every default written out."""
    tree = manifest.model_dump(exclude_none=True)
    return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()


app = typer.Typer()
