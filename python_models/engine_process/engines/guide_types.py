"""The structured-output backend of an engine that has one for all requests, and the guides that it takes."""

from __future__ import annotations

import json
from pathlib import Path

from engine_process.engine import EngineFailure, EngineLoadError
from engine_process.messages import Guide

LLGUIDANCE, XGRAMMAR = "llguidance", "xgrammar"

GUIDE_TYPES = {
    LLGUIDANCE: ("lark_grammar", "json", "json_schema", "regex"),
    XGRAMMAR: ("json", "json_schema", "regex", "ebnf_grammar"),
}
"""Backend → the types of guides that vLLM and TensorRT-LLM hand to it."""

ANY_JSON_SCHEMA = "{}"
"""What a guide of the type `json` allows, as a schema."""


def release_guide_backend(release: Path) -> str:
    """The backend that the manifest of the release names; for `auto` llguidance, whose masks don't depend on counts.

    Raises:
        EngineLoadError: there is no manifest, or it names another backend.
    """
    try:
        wanted = json.loads((release / "manifest.json").read_bytes()).get("guidance", {}).get("backend", "auto")
    except (OSError, ValueError, AttributeError) as error:
        raise EngineLoadError(f"the release's manifest can't be read: {type(error).__name__}") from None
    backend = LLGUIDANCE if wanted == "auto" else wanted
    if backend not in GUIDE_TYPES:
        raise EngineLoadError(f"guidance.backend is {wanted!r}, allowed: auto, {', '.join(GUIDE_TYPES)}")
    return str(backend)


def release_stop_token_ids(release: Path) -> list[int]:
    """The tokens that end a guided completion, from tokenizer_info.json.

    Raises:
        EngineLoadError: the file is missing or has none.
    """
    try:
        ids = list(map(int, json.loads((release / "tokenizer_info.json").read_bytes())["stop_token_ids"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineLoadError(f"tokenizer_info.json of the release can't be read: {type(error).__name__}") from None
    if not ids:
        raise EngineLoadError("tokenizer_info.json of the release has no stop_token_ids")
    return ids


def check_guide(guide: Guide, backend: str, end_id: int, eos_id: int) -> None:
    """Check that the engine's backend takes the guide. A guided completion must end by the tokenizer's `eos_id`.

    Its type decides, not `guide.backend`: JSON schemas and regular expressions are texts of both backends.

    Raises:
        EngineFailure: it does not.
    """
    allowed = GUIDE_TYPES[backend]
    if guide.kind not in allowed:
        raise EngineFailure("schema_invalid", f"unknown guide type, allowed: {', '.join(allowed)}")
    if not guide.text.strip() and guide.kind != "json":
        raise EngineFailure("schema_invalid", "the guide is empty")
    if end_id != eos_id:
        raise EngineFailure("invalid_input", f"a guided completion ends with token {eos_id}, but end_id is {end_id}")
