"""tokenizer_info.json, the file from which TensorRT-LLM's guided decoding learns the vocabulary.

It has three required keys: `encoded_vocab` (token strings in order of their ids), `tokenizer_str` (the text of
tokenizer.json) and `stop_token_ids`. If one is missing or shifted, guided decoding silently allows wrong tokens:

- An id without a token keeps its place as an empty string, which XGrammar never allows. Omitting it would shift every
  later token.
- `stop_token_ids` contains only the token that ends an answer in the *engine* (`end_id`), the tokenizer's `eos_token`.
  With a second one, as generation_config.json may list, the grammar would end while the engine goes on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import orjson

KEYS = ("encoded_vocab", "tokenizer_str", "stop_token_ids")
# A mistyped id must not allocate a list of a billion entries.
MAX_VOCAB_SIZE = 4_000_000


class TokenizerInfoError(ValueError):
    """The tokenizer directory or the info file can't be used; the text names the file, the key and the value."""


def default_info_path(tokenizer_dir: Path) -> Path:
    """`tokenizer_info.json` beside a directory named `tokenizer`, as a release has it, else inside the directory.

    The name is the one given: where `tokenizer` is a link, the file lies beside the link.
    """
    directory = Path(os.path.abspath(tokenizer_dir))  # noqa: PTH100 - resolve() would follow the link
    return (directory.parent if directory.name == "tokenizer" else directory) / "tokenizer_info.json"


def build_info(tokenizer_dir: Path) -> dict[str, Any]:
    """The tokenizer info of the Hugging Face tokenizer in `tokenizer_dir`.

    Raises:
        TokenizerInfoError: a file is missing or invalid, two tokens share an id, or there is no stop token.
    """
    text = _read_text(tokenizer_dir / "tokenizer.json")
    tokens = _tokens_by_id(_parse(text, tokenizer_dir / "tokenizer.json"))
    encoded_vocab = [tokens.get(token_id, "") for token_id in range(max(tokens) + 1)]
    return {
        "encoded_vocab": encoded_vocab,
        "tokenizer_str": text,
        "stop_token_ids": _stop_token_ids(tokenizer_dir, tokens),
    }


def info_bytes(info: dict[str, Any]) -> bytes:
    """The file's content, which is deterministic."""
    return orjson.dumps({key: info[key] for key in KEYS}, option=orjson.OPT_APPEND_NEWLINE)


def check_info(info_path: Path, tokenizer_dir: Path) -> list[str]:
    """Every difference between the info file and the tokenizer; empty if the file is up to date.

    Raises:
        TokenizerInfoError: one of them can't be read.
    """
    expected = build_info(tokenizer_dir)
    found = _parse(_read_text(info_path), info_path)
    return [
        *(f"{key}: missing" for key in KEYS if key not in found),
        *(f"{key}: unknown key" for key in found if key not in KEYS),
        *_vocab_differences(expected["encoded_vocab"], found.get("encoded_vocab", expected["encoded_vocab"])),
        *_text_differences(expected["tokenizer_str"], found.get("tokenizer_str", expected["tokenizer_str"])),
        *_stop_differences(expected["stop_token_ids"], found.get("stop_token_ids", expected["stop_token_ids"])),
    ]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise TokenizerInfoError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TokenizerInfoError(f"{path}: byte {error.start} is not UTF-8") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise TokenizerInfoError(f"{path}: not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise TokenizerInfoError(f"{path}: must be a JSON object, is {type(tree).__name__}")
    return tree


def _tokens_by_id(tokenizer: dict[str, Any]) -> dict[int, str]:
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not vocab:
        raise TokenizerInfoError(
            "tokenizer.json: model.vocab: must be an object of token → id, as in byte-level BPE models"
        )
    try:
        pairs = [*vocab.items(), *((added["content"], added["id"]) for added in tokenizer.get("added_tokens") or [])]
    except (KeyError, TypeError):
        raise TokenizerInfoError(
            "tokenizer.json: added_tokens: must be a list of objects with content and id"
        ) from None
    tokens: dict[int, str] = {}
    ids: dict[str, int] = {}
    for token, token_id in pairs:
        if not isinstance(token_id, int) or not 0 <= token_id < MAX_VOCAB_SIZE:
            raise TokenizerInfoError(
                f"tokenizer.json: token {token!r} has id {token_id!r}, allowed 0 to {MAX_VOCAB_SIZE - 1}"
            )
        if tokens.setdefault(token_id, token) != token:
            raise TokenizerInfoError(f"tokenizer.json: id {token_id} belongs to {tokens[token_id]!r} and to {token!r}")
        if ids.setdefault(token, token_id) != token_id:
            raise TokenizerInfoError(f"tokenizer.json: {token!r} has the ids {ids[token]} and {token_id}")
    return tokens


def _stop_token_ids(tokenizer_dir: Path, tokens: dict[int, str]) -> list[int]:
    eos = _optional(tokenizer_dir / "tokenizer_config.json").get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    if eos is not None:
        for token_id, token in tokens.items():
            if token == eos:
                return [token_id]
        raise TokenizerInfoError(f"tokenizer_config.json: eos_token: {eos!r} is not a token of tokenizer.json")
    return _generation_stop_ids(tokenizer_dir, tokens)


def _generation_stop_ids(tokenizer_dir: Path, tokens: dict[int, str]) -> list[int]:
    given = _optional(tokenizer_dir / "generation_config.json").get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    if given is None or not ids:
        raise TokenizerInfoError(
            f"{tokenizer_dir}: no stop token: set eos_token in tokenizer_config.json "
            "or eos_token_id in generation_config.json"
        )
    for token_id in ids:
        if token_id not in tokens:
            raise TokenizerInfoError(
                f"generation_config.json: eos_token_id: {token_id!r} is not an id of tokenizer.json"
            )
    return list(ids)


def _optional(path: Path) -> dict[str, Any]:
    return _parse(_read_text(path), path) if path.exists() else {}


def _vocab_differences(expected: list[str], found: Any) -> list[str]:
    if not isinstance(found, list):
        return [f"encoded_vocab: must be a list, is {type(found).__name__}"]
    differences = []
    if len(found) != len(expected):
        differences.append(f"encoded_vocab: has {len(found)} entries, the tokenizer has {len(expected)}")
    differences += [
        f"encoded_vocab[{token_id}]: file has {theirs!r}, tokenizer has {ours!r}"
        for token_id, (ours, theirs) in enumerate(zip(expected, found))  # noqa: B905 - different lengths are reported above
        if ours != theirs
    ]
    return differences


def _text_differences(expected: str, found: Any) -> list[str]:
    if found == expected:
        return []
    if not isinstance(found, str):
        return [f"tokenizer_str: must be a string, is {type(found).__name__}"]
    at = next((at for at, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))  # noqa: B905
    return [
        f"tokenizer_str: differs from tokenizer.json at character {at}: file has {found[at : at + 24]!r}, "
        f"tokenizer.json has {expected[at : at + 24]!r}"
    ]


def _stop_differences(expected: list[int], found: Any) -> list[str]:
    return [] if found == expected else [f"stop_token_ids: file has {found!r}, tokenizer has {expected!r}"]
