"""A release of a few bytes that agrees with its manifest, for tests to modify."""

import json
import shutil
from pathlib import Path
from typing import Any

from llm_policy.guidance.backends.vocabulary import byte_values
from llm_policy.release.release import Release
from llmstack.release.manifest_file import describe_release, manifest_bytes
from llmstack.tokenizer.tokenizer_info import build_info, info_bytes
from tests.manifests import manifest_tree

TOKENIZER: dict[str, Any] = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "added_tokens": [{"id": 3, "content": "<|end|>", "special": True}],
}
_NO_CONTEXT = {"single_word": False, "lstrip": False, "rstrip": False}
# Every byte is a token, so that a server could load it and its guides never lack one.
BYTE_TOKENIZER: dict[str, Any] = {
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": byte_values(), "merges": []},
    "added_tokens": [{"id": 256, "content": "<|end|>", "special": True, "normalized": False, **_NO_CONTEXT}],
}
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"
EVALUATION = {"name": "nightly 4711", "evaluated_at": "2026-11-02T03:00:00Z", "results": "https://eval.example/4711"}
SCHEMAS = {"verdict": {"enum": ["pass", "fail"]}, "label": {"enum": ["A", "B"]}}


def write_tokenizer(directory: Path, tokenizer=None, **configs) -> Path:
    """Write a tokenizer directory; `configs` has the contents of its other files by stem."""
    directory.mkdir(parents=True, exist_ok=True)
    configs = configs or {"tokenizer_config": {"eos_token": "<|end|>"}}
    for name, content in {"tokenizer": tokenizer or TOKENIZER, **configs}.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def write_release(directory: Path, **changes) -> Release:
    """Write a release whose manifest is that of `tests.manifests` with `changes`."""
    (directory / "engine").mkdir(parents=True)
    (directory / "engine" / "rank0.engine").write_bytes(b"engine")
    (directory / "engine" / "config.json").write_text("{}")
    config = {"eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE}
    write_tokenizer(directory / "tokenizer", BYTE_TOKENIZER, tokenizer_config=config)
    (directory / "tokenizer_info.json").write_bytes(info_bytes(build_info(directory / "tokenizer")))
    (directory / "schemas").mkdir()
    for name, schema in SCHEMAS.items():
        (directory / "schemas" / f"{name}.json").write_text(json.dumps(schema))
    settings = manifest_tree(engine={"quantisation": "w4a8", "model": "Qwen3-32B"}, **changes)
    (directory / "manifest.json").write_bytes(manifest_bytes(describe_release(directory, settings)))
    return Release.open(directory)


def change_manifest(directory: Path, **changes) -> None:
    """Replace sections of a release's manifest.json."""
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write_evaluation(directory: Path, name: str = "evaluation.json", **changes: Any) -> Path:
    """Write a manifest of the evaluation side that agrees with the release in `directory` but for `changes`."""
    tree = json.loads((directory / "manifest.json").read_text())
    path = directory / "module6" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**tree, "evaluation": EVALUATION, **changes}))
    return path


def update_manifest_hashes(directory: Path) -> None:
    """Update the hashes in the manifest of a modified copy, and delete the evidence about the original files."""
    for name in ("build_manifest.json", "warmup.json", "smoke.json"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "module6", ignore_errors=True)
    tree = json.loads((directory / "manifest.json").read_text())
    settings = {key: value for key, value in tree.items() if key not in ("tokenizer", "schemas")}
    settings["engine"] = {key: value for key, value in tree["engine"].items() if key != "hash"}
    (directory / "manifest.json").write_bytes(manifest_bytes(describe_release(directory, settings)))
    Release.open(directory).verify_files()
