"""A real Qwen tokenizer from the vocabulary in the `dashscope` package (Apache-2.0).

The package ships `resources/qwen.tiktoken`: one `base64(token bytes) rank` per line, 151,643 of them. This module
turns it into a byte-level BPE `tokenizer.json` whose ids equal Qwen's own ("Hello" is 9707), for tests and benchmarks
at the real vocabulary size. The file has no merges: a token's last merge joins the two parts that remain after all
merges of lower rank.
"""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

from llm_policy.guidance.backends.vocabulary import byte_values

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""In the order of their ids: 151643, 151644, 151645."""

STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")

PADDED_VOCAB_SIZE = 151_936
"""Rows of Qwen3's embedding: the engine's padded vocabulary, larger than the tokenizer's."""

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def vocabulary_path() -> Path:
    """Path of the file in the dashscope package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec("dashscope")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("package dashscope is not installed (it contains the Qwen vocabulary)")
    return Path(spec.origin).parent / "resources" / "qwen.tiktoken"


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes → rank (= token id)."""
    ranks: dict[bytes, int] = {}
    for line in path.read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    return ranks


def byte_characters() -> dict[int, str]:
    """The printable character of each byte in byte-level BPE (GPT-2's table)."""
    return {byte: character for character, byte in byte_values().items()}


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts of `token` that remain after every merge of a lower rank."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        rank, position = min((ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1))
        if rank >= ranks[token]:
            raise ValueError(f"token of rank {ranks[token]} is not a merge of earlier tokens")
        parts[position : position + 2] = [parts[position] + parts[position + 1]]
    return parts[0], parts[1]


def tokenizer_document(ranks: dict[bytes, int]) -> dict[str, Any]:
    """The content of tokenizer.json."""
    characters = byte_characters()

    def spell(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    by_rank = sorted(ranks.items(), key=lambda item: item[1])
    merges = [[spell(part) for part in last_merge(token, ranks)] for token, _ in by_rank if len(token) > 1]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(len(ranks) + i, text) for i, text in enumerate(SPECIAL_TOKENS)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): rank for token, rank in by_rank},
            "merges": merges,
        },
    }


def _added_token(token_id: int, content: str) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def encoded_vocab(document: dict[str, Any]) -> list[str]:
    """Token strings in id order, special tokens included."""
    vocab: dict[str, int] = document["model"]["vocab"]
    tokens = [""] * (len(vocab) + len(document["added_tokens"]))
    for token, token_id in vocab.items():
        tokens[token_id] = token
    for added in document["added_tokens"]:
        tokens[added["id"]] = added["content"]
    return tokens


def build_tokenizer(directory: Path) -> Path:
    """Write tokenizer.json into `directory` unless it exists (takes about 10 s); return its path."""
    target = directory / "tokenizer.json"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(tokenizer_document(read_ranks(vocabulary_path())), ensure_ascii=False)
        partial = target.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    return target
