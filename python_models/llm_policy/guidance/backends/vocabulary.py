"""The vocabulary of a release, as its `tokenizer_info.json` states it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson


def byte_values() -> dict[str, int]:
    """Printable character → byte of byte-level BPE (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    for offset, byte in enumerate(byte for byte in range(256) if byte not in printable):
        table[chr(0x100 + offset)] = byte
    return table


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a byte-level BPE tokenizer, and the tokens that end an output."""

    encoded_vocab: list[str]
    """Token texts in order of their ids, in GPT-2's printable form; empty for an id without a token."""
    stop_token_ids: list[int]
    tokenizer_json: str
    """The text of tokenizer.json."""

    @staticmethod
    def read(tokenizer_info_path: Path) -> Vocabulary:
        """Read `tokenizer_info.json`."""
        info = orjson.loads(tokenizer_info_path.read_bytes())
        return Vocabulary(info["encoded_vocab"], info["stop_token_ids"], info["tokenizer_str"])

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of each token; empty for special tokens that are not in the byte-level alphabet."""
        values = byte_values()
        return [
            bytes(values[c] for c in text) if all(c in values for c in text) else b"" for text in self.encoded_vocab
        ]
