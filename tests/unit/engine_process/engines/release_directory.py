"""A release with what an adapter reads of it."""

import json
from pathlib import Path

from engine_process.engine import EngineSettings

STOP_TOKEN_ID = 99


def write_release(
    directory: Path, backend: str = "auto", stop_token_ids: list[int] | None = None, **options: str
) -> EngineSettings:
    """The settings of an engine for a release in `directory`, with a batch of 8."""
    for name in ("engine", "tokenizer"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "manifest.json").write_text(json.dumps({"guidance": {"backend": backend}}), encoding="utf-8")
    info = {"stop_token_ids": [STOP_TOKEN_ID] if stop_token_ids is None else stop_token_ids}
    (directory / "tokenizer_info.json").write_text(json.dumps(info), encoding="utf-8")
    return EngineSettings(directory, max_batch_size=8, max_mask_ms=5.0, options=options)
