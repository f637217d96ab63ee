"""Encodes and decodes text exactly as the engine's own tokenizer does.

User text never becomes a control token: the tokenizer library gets a vocabulary without added tokens (`<|im_start|>`,
`<think>`, …), so it can't recognise any. `encode_chat` inserts the chat template's control tokens between segments.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llm_policy.text.chat_template import ChatTemplate, PromptSegment, parse_messages
from llm_policy.text.tokenizer_file import TokenizerFile

Ids = npt.NDArray[np.int32]

# NFC never turns a text of a ASCII bytes and b other bytes into fewer than a + b/4 bytes. The extreme case is U+01D5:
# two bytes, decomposed into one ASCII and four other bytes. A unit test checks every character.
_MAX_NFC_SHRINK = 4


class Backend(Protocol):
    """A tokenizer library with a vocabulary of ordinary tokens."""

    @property
    def name(self) -> str:
        """The name of the Python package."""

    def encode(self, text: str) -> Ids:
        """Ids of ordinary text."""

    def decode(self, ids: list[int]) -> str:
        """Text of ids; ids beyond the vocabulary give no text."""

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None beyond the vocabulary."""


class FastokensBackend:
    """The `fastokens` library: about 100 times faster than the reference on long prompts."""

    name = "fastokens"

    def __init__(self, tokenizer_json: str) -> None:
        # Each of its threads has caches of up to 150 MB, and the default is one thread per core. A second thread gains
        # nothing below 100 KB of text. The library reads this variable once, when it first encodes.
        os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
        import fastokens

        self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer_json)

    def encode(self, text: str) -> Ids:
        """Ids of ordinary text, from one buffer: a Python object per id would take ten times as long."""
        buffer, _ = self._tokenizer.encode_batch_flat([text])
        return np.frombuffer(buffer, np.int32)

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        text: str = self._tokenizer.decode(ids)
        return text

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token


class ReferenceBackend:
    """Hugging Face `tokenizers`: the reference, and the fallback where fastokens is not available."""

    name = "tokenizers"

    def __init__(self, tokenizer_json: str) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)

    def encode(self, text: str) -> Ids:
        """Ids of ordinary text."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        return str(self._tokenizer.decode([token_id for token_id in ids if 0 <= token_id < 2**32]))

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it."""
        token: str | None = self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return token


class Tokenizer:
    """One Hugging Face tokenizer directory, loaded once; immutable."""

    def __init__(self, file: TokenizerFile, backend: Backend) -> None:
        self._backend = backend
        self._longest_token_bytes = file.longest_token_bytes
        self._normalizes = file.normalizes
        self._template = ChatTemplate(file.chat_template, tuple(file.added_tokens), file.named_tokens)
        self._control_ids = {text: np.array([token_id], np.int32) for text, token_id in file.added_tokens.items()}
        # Added token id → the ids decoded in its place: none for a special token, else its text as ordinary tokens.
        self._decoded_as: dict[int, list[int]] = {
            token_id: [] if token_id in file.special_ids else backend.encode(text).tolist()
            for text, token_id in file.added_tokens.items()
        }
        self._token_bytes: dict[int, bytes] = {}  # of tokens seen so far
        self.backend = backend.name
        self.control_tokens = file.added_tokens
        self.vocab_size = file.vocab_size
        self.eos_id = file.id_of("eos_token")
        self.pad_id = file.id_of("pad_token") if "pad_token" in file.named_tokens else self.eos_id

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Load a Hugging Face tokenizer directory: byte-level BPE with a chat template.

        Raises:
            OSError: a file is missing.
            ValueError: a file is malformed, or this kind of tokenizer is not supported.
        """
        file = TokenizerFile.read(directory)
        tokenizer = cls(file, choose_backend(file.ordinary_json))
        del file
        _return_freed_memory()
        return tokenizer

    def encode_text(self, text: str) -> Ids:
        """Ids of user text, in which no control token is recognised.

        Raises:
            ValueError: the text has an unpaired surrogate.
        """
        return self._backend.encode(text)

    def encode_chat(self, messages: bytes | str, check_length: Callable[[str], None] = lambda text: None) -> Ids:
        """Ids of a JSON array of {role, content} in the chat template, up to where the answer begins, thinking off.

        `check_length` is called with each content before encoding and may raise.

        Raises:
            InvalidRequest: `invalid_input`; the text never quotes a message.
        """
        parsed = parse_messages(messages)
        for message in parsed:
            check_length(message.content)
        return np.concatenate([self._encode_segment(segment) for segment in self._template.render(parsed)])

    def _encode_segment(self, segment: PromptSegment) -> Ids:
        return self._control_ids[segment.text] if segment.is_control else self._backend.encode(segment.text)

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`. Special tokens and ids beyond the vocabulary give no text; broken UTF-8 gives U+FFFD."""
        if not self._decoded_as.keys().isdisjoint(ids):
            ids = [ordinary for token_id in ids for ordinary in self._decoded_as.get(token_id, (token_id,))]
        return self._backend.decode(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token. Those of all ids joined, read as UTF-8, are what `decode` returns for the ids."""
        found = self._token_bytes.get(token_id)
        if found is None:
            ordinary = self._decoded_as.get(token_id, [token_id])
            found = b"".join(_unspell(self._backend.token(number) or "") for number in ordinary)
            if 0 <= token_id < self.vocab_size:
                self._token_bytes[token_id] = found
        return found

    def min_tokens_of(self, text: str) -> int:
        """A lower bound on the number of tokens in `text`, from its length in bytes.

        Raises:
            ValueError: the text has an unpaired surrogate.
        """
        if not self._normalizes or text.isascii():
            return len(text.encode()) // self._longest_token_bytes
        num_ascii = len(text.encode("ascii", "ignore"))
        num_other = len(text.encode()) - num_ascii
        return (num_ascii + num_other // _MAX_NFC_SHRINK) // self._longest_token_bytes


def _byte_of_letter() -> dict[str, int]:
    """The letter for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`).

    Printable Latin-1 characters stand for themselves, the others for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_of_letter()


def _unspell(token: str) -> bytes:
    """The bytes of a token; one with another character than those letters is its own UTF-8 text."""
    try:
        return bytes(map(_BYTE_OF_LETTER.__getitem__, token))
    except KeyError:
        return token.encode()


def choose_backend(tokenizer_json: str) -> Backend:
    """The fast library, or the reference if that is not installed or does not support the tokenizer.

    Raises:
        ValueError: neither library supports it.
    """
    try:
        return FastokensBackend(tokenizer_json)
    except (ImportError, ValueError):
        try:
            return ReferenceBackend(tokenizer_json)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"tokenizer.json: {error}") from None


def _return_freed_memory() -> None:
    """Return the memory freed after loading, about 70 MB that glibc would keep, to the system."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
