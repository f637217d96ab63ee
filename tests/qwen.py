"""A tokenizer directory with Qwen's real vocabulary of 151,643 tokens, built once under build/."""

import fcntl
import hashlib
import json
import shutil
from functools import cache
from importlib.metadata import version
from pathlib import Path

from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.tokenizer import qwen_vocabulary
from llmstack.tokenizer.qwen_vocabulary import build_tokenizer

DIRECTORY = Path(__file__).resolve().parents[1] / "build" / "qwen-tokenizer"


@cache
def qwen_tokenizer_dir() -> Path:
    """A directory with tokenizer.json of Qwen's vocabulary and the embedded release's chat template and token names."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    stamp, sources = DIRECTORY / ".sources", _hash_of_sources()
    with (DIRECTORY / ".lock").open("w") as lock:  # test workers run concurrently
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != sources:
            build_tokenizer(DIRECTORY)
            stamp.write_text(sources)
        for name in ("chat_template.jinja", "tokenizer_config.json"):
            shutil.copyfile(DEFAULT_RELEASE_DIR / "tokenizer" / name, DIRECTORY / name)
    return DIRECTORY


def _hash_of_sources() -> str:
    """What tokenizer.json is made from: the code that builds it, and the vocabulary in its package."""
    code = Path(qwen_vocabulary.__file__).read_bytes()
    return hashlib.sha256(code + version("dashscope").encode()).hexdigest()


def tokenizer_json() -> str:
    """The text of tokenizer.json."""
    return (qwen_tokenizer_dir() / "tokenizer.json").read_text(encoding="utf-8")


def added_tokens() -> list[str]:
    """Every control token's text."""
    return [token["content"] for token in json.loads(tokenizer_json())["added_tokens"]]
