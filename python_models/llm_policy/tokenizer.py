"""Text to token ids and back, exactly as the engine's own tokenizer does it.

User text and control tokens never mix: `encode_text` recognises no added token (`<|im_start|>`, `<think>`, …) in what
it is given, and the chat template's own control tokens are put between such stretches by `encode_chat`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from llm_policy.chat_template import ChatTemplate, Stretch, parse_messages

Ids = npt.NDArray[np.int32]

# NFC may shorten a text: three Hangul jamo (9 bytes) compose to one syllable (3 bytes), and nothing composes further.
_MAX_NFC_SHRINK = 3


class Backend(Protocol):
    """A tokenizer library."""

    def encode(self, text: str) -> Ids:
        """Ids of ordinary text; added tokens are not recognised."""

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens left out."""


class FastokensBackend:
    """The `fastokens` library: some 100 times faster than the reference on long prompts."""

    def __init__(self, tokenizer_json: str) -> None:
        import fastokens

        self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer_json)
        self._ordinary = fastokens.Tokenizer.from_json_str(_without_added_tokens(tokenizer_json))

    def encode(self, text: str) -> Ids:
        """Ids of ordinary text, as one buffer: Python objects for single ids would take ten times as long."""
        buffer, _ = self._ordinary.encode_batch_flat([text])
        return np.frombuffer(buffer, np.int32)

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens left out."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class ReferenceBackend:
    """Hugging Face `tokenizers`: the reference, and the fallback where fastokens can't be had."""

    def __init__(self, tokenizer_json: str) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        self._ordinary = tokenizers.Tokenizer.from_str(_without_added_tokens(tokenizer_json))

    def encode(self, text: str) -> Ids:
        """Ids of ordinary text."""
        return np.array(self._ordinary.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class Tokenizer:
    """One Hugging Face tokenizer directory, loaded once and never changed."""

    def __init__(self, backend: Backend, document: dict[str, Any], config: dict[str, Any], template: str) -> None:
        added = {token["content"]: int(token["id"]) for token in document["added_tokens"]}
        vocabulary = document["model"]["vocab"]
        self._backend = backend
        self._added = added
        # Byte-level BPE spells each byte as one character.
        self._longest_token_bytes = max(map(len, vocabulary))
        self._normalizes = document.get("normalizer") is not None
        self._template = ChatTemplate(template, tuple(added))
        self.vocab_size = 1 + max(max(vocabulary.values()), max(added.values(), default=0))
        self.eos_id = _named_id(config, "eos_token", added)
        self.pad_id = _named_id(config, "pad_token", added)

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """The tokenizer in `directory` (tokenizer.json, tokenizer_config.json, chat_template.jinja).

        Raises:
            OSError: a file is missing.
            ValueError: a file is not what it should be.
        """
        text = (directory / "tokenizer.json").read_text(encoding="utf-8")
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = directory / "chat_template.jinja"
        source = template.read_text(encoding="utf-8") if template.exists() else config["chat_template"]
        return cls(_choose_backend(text), orjson.loads(text), config, source)

    def encode_text(self, text: str) -> Ids:
        """Ids of user text; no control token is ever recognised in it."""
        return self._backend.encode(text)

    def encode_chat(self, messages: bytes, check_length: Callable[[str], None] = lambda text: None) -> Ids:
        """Ids of a JSON array of {role, content} through the chat template, thinking off, the answer's turn open.

        `check_length` may refuse a content before any time is spent on it.

        Raises:
            InvalidRequest: `invalid_input`; the text never quotes a message.
        """
        parsed = parse_messages(messages)
        for message in parsed:
            check_length(message.content)
        return np.concatenate([self._encode_stretch(stretch) for stretch in self._template.render(parsed)])

    def _encode_stretch(self, stretch: Stretch) -> Ids:
        if stretch.is_control:
            return np.array([self._added[stretch.text]], np.int32)
        return self._backend.encode(stretch.text)

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`. Control tokens and ids beyond the vocabulary give no text, broken UTF-8 gives U+FFFD."""
        return self._backend.decode(ids)

    def min_tokens_of(self, text: str) -> int:
        """A lower bound on the tokens of `text`, from its bytes alone."""
        num_bytes = len(text.encode())
        if self._normalizes and not unicodedata.is_normalized("NFC", text):
            num_bytes //= _MAX_NFC_SHRINK
        return num_bytes // self._longest_token_bytes


def _choose_backend(tokenizer_json: str) -> Backend:
    try:
        return FastokensBackend(tokenizer_json)
    except (ImportError, ValueError):
        return ReferenceBackend(tokenizer_json)


def _without_added_tokens(tokenizer_json: str) -> str:
    return json.dumps({**json.loads(tokenizer_json), "added_tokens": [], "post_processor": None})


def _named_id(config: dict[str, Any], name: str, added: dict[str, int]) -> int:
    value = config.get(name)
    content = value.get("content") if isinstance(value, dict) else value
    if content not in added:
        raise ValueError(f"tokenizer_config.json: {name} is no added token of tokenizer.json")
    return added[content]
