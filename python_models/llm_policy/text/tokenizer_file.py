"""Reads a Hugging Face tokenizer directory and rejects tokenizers that this package can't reproduce exactly.

A prompt is encoded in segments between control tokens. That equals encoding it as a whole only if the ids of a segment
do not depend on its neighbours: byte-level BPE without a prefix space, and added tokens that do not strip white space.
Benign text keeps its ids only if no added token is ordinary text, such as a run of spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

# The names by which a chat template refers to these tokens in transformers.
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NOT_ORDINARY: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
_CONTEXT_FLAGS = ("single_word", "lstrip", "rstrip")


@dataclass(frozen=True)
class TokenizerFile:
    """The contents of one tokenizer directory."""

    ordinary_json: str
    """tokenizer.json without added tokens, post-processing, truncation and padding."""
    added_tokens: Mapping[str, int]
    """Text → id."""
    special_ids: frozenset[int]
    """The ids of the added tokens that decoding omits."""
    named_tokens: Mapping[str, str]
    """`eos_token` and the like → text."""
    longest_token_bytes: int
    vocab_size: int
    """The highest id plus one."""
    normalizes: bool
    chat_template: str

    @classmethod
    def read(cls, directory: Path) -> TokenizerFile:
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja (or the config's `chat_template`).

        Raises:
            OSError: a file is missing.
            ValueError: a file is malformed, or this kind of tokenizer is not supported.
        """
        document = _read_object(directory / "tokenizer.json")
        config = _read_object(directory / "tokenizer_config.json")
        try:
            _check_supported(document)
            vocabulary: dict[str, int] = document["model"]["vocab"]
            tokens: list[dict[str, Any]] = document["added_tokens"]
            added = {str(token["content"]): int(token["id"]) for token in tokens}
            return cls(
                ordinary_json=orjson.dumps({**document, **_NOT_ORDINARY}).decode(),
                added_tokens=added,
                special_ids=frozenset(int(token["id"]) for token in tokens if token["special"]),
                named_tokens=_named_tokens(config),
                # Byte-level BPE spells each byte as one character.
                longest_token_bytes=max(map(len, vocabulary)),
                vocab_size=1 + max(*vocabulary.values(), *added.values()),
                normalizes=document["normalizer"] is not None,
                chat_template=_chat_template(directory, config),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{directory.name}: not a tokenizer directory: {error!r}") from None

    def id_of(self, name: str) -> int:
        """The id of `eos_token` or the like.

        Raises:
            ValueError: tokenizer_config.json does not name one, or tokenizer.json lacks it.
        """
        token_id = self.added_tokens.get(self.named_tokens.get(name, ""))
        if token_id is None:
            raise ValueError(f"tokenizer_config.json: {name} is not an added token of tokenizer.json")
        return token_id


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path.name}: invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name}: not a JSON object")
    return value


def _check_supported(document: dict[str, Any]) -> None:
    model, normalizer = document["model"], document["normalizer"]
    pre_tokenizer = document["pre_tokenizer"]
    last = pre_tokenizer["pretokenizers"][-1] if pre_tokenizer["type"] == "Sequence" else pre_tokenizer
    found = {
        "model.type": (model["type"], "BPE"),
        "model.dropout": (model.get("dropout") or None, None),
        "model.byte_fallback": (bool(model.get("byte_fallback")), False),
        "normalizer": (normalizer and normalizer["type"], "NFC" if normalizer else None),
        "pre_tokenizer": (last["type"], "ByteLevel"),
        "pre_tokenizer.add_prefix_space": (last.get("add_prefix_space"), False),
        "decoder": (document["decoder"]["type"], "ByteLevel"),
    }
    for token in document["added_tokens"]:
        name = f"added token {token['content']}"
        found[f"{name}: white space"] = (len(token["content"].split()) != 1, False)
        for flag in _CONTEXT_FLAGS:
            found[f"{name}: {flag}"] = (token.get(flag, False), False)
    unsupported = [
        f"{name} is {value}, supported is {allowed}" for name, (value, allowed) in found.items() if value != allowed
    ]
    if unsupported:
        raise ValueError("tokenizer.json: " + "; ".join(unsupported))


def _named_tokens(config: dict[str, Any]) -> dict[str, str]:
    named = {name: config[name] for name in _NAMED_TOKENS if config.get(name)}
    return {name: token["content"] if isinstance(token, dict) else str(token) for name, token in named.items()}


def _chat_template(directory: Path, config: dict[str, Any]) -> str:
    path = directory / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if not template:
        raise ValueError("no chat template: neither chat_template.jinja nor tokenizer_config.json's chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}["default"]
    return str(template)
