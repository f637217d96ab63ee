"""A release with what an adapter reads of it."""

import json
from pathlib import Path

from engine_process.engine import EngineSettings

EOS_ID = 99


def write_release(
    directory: Path,
    backend: str = "auto",
    options: dict[str, str] | None = None,
    stop_token_ids: tuple[int, ...] = (EOS_ID,),
) -> EngineSettings:
    """The settings of an engine for a release in `directory`, with a batch of 8."""
    for name in ("engine", "tokenizer"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "manifest.json").write_text(json.dumps({"guidance": {"backend": backend}}), encoding="utf-8")
    info = {"stop_token_ids": stop_token_ids}
    (directory / "tokenizer_info.json").write_text(json.dumps(info), encoding="utf-8")
    return EngineSettings(directory, max_batch_size=8, max_mask_ms=5.0, options=options or {})
