"""A release with a large model's shape and no weights, to measure the stack where the weights are not available.

The portable engine generates random weights on its device (`LLMSTACK_ENGINE_RANDOM_WEIGHTS=1`). Tokenizer, token ids,
grammars and the work of a step are those of the real model; the output is meaningless.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_policy.release.release import Release
from llmstack.release.manifest_file import describe_release, manifest_bytes
from llmstack.tokenizer.qwen_vocabulary import build_tokenizer
from llmstack.tokenizer.tokenizer_info import build_info, info_bytes


def write_random_release(
    directory: Path, name: str, config: Mapping[str, Any], template: Release, max_counted_length: int | None = None
) -> Release:
    """Write the release of a model `name` with the Hugging Face configuration `config`.

    Schemas, tasks, prices and guidance limits are those of `template`; `max_counted_length` replaces that limit.

    Raises:
        FileNotFoundError: the package with Qwen's vocabulary is not installed.
        OSError: `directory` can't be written.
    """
    build_tokenizer(directory / "tokenizer")
    for file in ("chat_template.jinja", "tokenizer_config.json"):
        shutil.copyfile(template.tokenizer_dir / file, directory / "tokenizer" / file)
    info = build_info(directory / "tokenizer")
    (directory / "tokenizer_info.json").write_bytes(info_bytes(info))
    (directory / "engine").mkdir(exist_ok=True)
    (directory / "engine" / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copytree(template.directory / "schemas", directory / "schemas", dirs_exist_ok=True)
    settings = template.manifest.model_dump(exclude_none=True, exclude={"tokenizer", "schemas"})
    settings["engine"] = {**settings["engine"], "model": f"{name}-random"}
    del settings["engine"]["hash"]
    if max_counted_length is not None:
        settings["guidance"]["limits"]["max_counted_length"] = max_counted_length
    (directory / "manifest.json").write_bytes(manifest_bytes(describe_release(directory, settings)))
    return Release.open(directory).verify_files()
