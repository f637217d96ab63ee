"""A release with a large model's shape and no weights, to measure the stack where the weights are not available.

The portable engine generates random weights on its device (`LLMSTACK_ENGINE_RANDOM_WEIGHTS=1`), vLLM with
`load_format=dummy`. Tokenizer, token ids, grammars and the work of a step are those of the real model; the output is
meaningless.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.release.release import Release
from llmstack.release.manifest_file import describe_release, manifest_bytes
from llmstack.tokenizer.qwen_vocabulary import build_tokenizer
from llmstack.tokenizer.tokenizer_info import build_info, info_bytes


class RandomRelease(NamedTuple):
    """What a random release has of its own; the rest is its template's.

    `config` is the model's Hugging Face configuration. `tokenizer_dir` holds a tokenizer.json that was built before.
    """

    name: str
    config: Mapping[str, Any]
    max_counted_length: int | None = None
    max_batch_size: int | None = None
    guide_backend: str | None = None
    tokenizer_dir: Path | None = None


def write_random_release(directory: Path, wanted: RandomRelease, template: Release) -> Release:
    """Write the release. Schemas, tasks and prices are those of `template`, and so are the limits without a value.

    Raises:
        FileNotFoundError: the package with Qwen's vocabulary is not installed.
        OSError: `directory` can't be written.
    """
    tokenizer = directory / "tokenizer"
    tokenizer.mkdir(parents=True, exist_ok=True)
    if wanted.tokenizer_dir is not None:
        shutil.copyfile(wanted.tokenizer_dir / "tokenizer.json", tokenizer / "tokenizer.json")
    build_tokenizer(tokenizer)
    for file in ("chat_template.jinja", "tokenizer_config.json"):
        shutil.copyfile(template.tokenizer_dir / file, tokenizer / file)
    (directory / "tokenizer_info.json").write_bytes(info_bytes(build_info(tokenizer)))
    (directory / "engine").mkdir(exist_ok=True)
    (directory / "engine" / "config.json").write_text(json.dumps(wanted.config, indent=2) + "\n", encoding="utf-8")
    shutil.copytree(template.directory / "schemas", directory / "schemas", dirs_exist_ok=True)
    (directory / "manifest.json").write_bytes(manifest_bytes(describe_release(directory, _settings(wanted, template))))
    return Release.open(directory).verify_files()


def _settings(wanted: RandomRelease, template: Release) -> dict[str, Any]:
    """The template's manifest without what is computed from the release's files, and with the values of `wanted`."""
    settings = template.manifest.model_dump(exclude_none=True, exclude={"tokenizer", "schemas"})
    settings["engine"] = {**settings["engine"], "model": f"{wanted.name}-random"}
    del settings["engine"]["hash"]
    if wanted.max_batch_size is not None:
        settings["engine"]["max_batch_size"] = wanted.max_batch_size
    if wanted.max_counted_length is not None:
        settings["guidance"]["limits"]["max_counted_length"] = wanted.max_counted_length
    if wanted.guide_backend is not None:
        settings["guidance"]["backend"] = wanted.guide_backend
    return settings
