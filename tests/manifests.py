"""Manifests for tests: the defaults, with a test's changes."""

from typing import Any

import orjson

from llm_policy.release.manifest import Manifest, parse_manifest

ENGINE_HASH = "sha256:" + "a" * 64


def manifest_tree(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "engine": {"hash": ENGINE_HASH, "quantisation": "w4a8", "model": "Qwen3-32B"},
        "tokenizer": {"info_hash": "sha256:" + "b" * 64},
        "prices": {"input_usd_per_million": 0.1, "output_usd_per_million": 0.3},
        "tasks": {
            "generate_json": {"temperature": 0.0},
            "rank_candidates": {"temperature": 0.0},
            "judge": {"temperature": 0.1, "top_p": 0.9},
        },
    }
    return {**tree, **changes}


def manifest(**changes: Any) -> Manifest:
    return parse_manifest(orjson.dumps(manifest_tree(**changes)))
