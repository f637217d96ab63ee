"""A tokenizer directory with Qwen's real vocabulary of 151,643 tokens, built once under build/."""

import fcntl
import json
import shutil
from functools import cache
from pathlib import Path

from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.tokenizer.qwen_vocabulary import build_tokenizer

DIRECTORY = Path(__file__).resolve().parents[1] / "build" / "qwen-tokenizer"


@cache
def qwen_tokenizer_dir() -> Path:
    """A directory with tokenizer.json of Qwen's vocabulary and the embedded release's chat template and token names."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with (DIRECTORY / ".lock").open("w") as lock:  # test workers run concurrently
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_tokenizer(DIRECTORY)
        for name in ("chat_template.jinja", "tokenizer_config.json"):
            shutil.copyfile(DEFAULT_RELEASE_DIR / "tokenizer" / name, DIRECTORY / name)
    return DIRECTORY


def tokenizer_json() -> str:
    """The text of tokenizer.json."""
    return (qwen_tokenizer_dir() / "tokenizer.json").read_text(encoding="utf-8")


def added_tokens() -> list[str]:
    """Every control token's text."""
    return [token["content"] for token in json.loads(tokenizer_json())["added_tokens"]]
