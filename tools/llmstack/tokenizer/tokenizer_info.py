"""`llmstack tokenizer-info`: the file from which TensorRT-LLM's guided decoding learns the vocabulary.

Three keys, all required: `encoded_vocab` (token strings in order of their ids), `tokenizer_str` (the text of
tokenizer.json) and `stop_token_ids`. When one is missing or shifted, guidance silently allows wrong tokens. So:

- An id that no token has keeps its place with the empty string, which XGrammar never allows. Sorting tokens by id
  and leaving gaps out would shift every later token.
- Stop tokens are what ends an answer in the *engine* (`end_id`), i.e. the tokenizer's `eos_token`. A second one, as
  generation_config.json may list, would end the grammar while the engine goes on without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from llmstack.cli.terminal import DIFFERENT, fail, print_json

KEYS = ("encoded_vocab", "tokenizer_str", "stop_token_ids")
# A mistyped id must not ask for a list of a billion entries.
MAX_VOCAB_SIZE = 4_000_000


class TokenizerInfoError(ValueError):
    """The tokenizer directory or the info file can't be used; the text names file, key and value."""


def build_info(tokenizer_dir: Path) -> dict[str, Any]:
    """The tokenizer info of the Hugging Face tokenizer in `tokenizer_dir`.

    Raises:
        TokenizerInfoError: a file is missing or wrong, two tokens share an id, or nothing says what ends an answer.
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
    """The file's bytes; the same info gives the same bytes."""
    return orjson.dumps({key: info[key] for key in KEYS}, option=orjson.OPT_APPEND_NEWLINE)


def check_info(info_path: Path, tokenizer_dir: Path) -> list[str]:
    """Every difference between the info file and the tokenizer; empty when the file is the one to build.

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
        raise TokenizerInfoError(f"{path}: byte {error.start} is no UTF-8") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise TokenizerInfoError(f"{path}: no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise TokenizerInfoError(f"{path}: a JSON object is needed, found {type(tree).__name__}")
    return tree


def _tokens_by_id(tokenizer: dict[str, Any]) -> dict[int, str]:
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not vocab:
        raise TokenizerInfoError(
            "tokenizer.json: model.vocab: an object of token → id is needed, as byte-level BPE models have it"
        )
    try:
        pairs = [*vocab.items(), *((added["content"], added["id"]) for added in tokenizer.get("added_tokens") or [])]
    except (KeyError, TypeError):
        raise TokenizerInfoError(
            "tokenizer.json: added_tokens: a list of objects with content and id is needed"
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
        raise TokenizerInfoError(f"tokenizer_config.json: eos_token: {eos!r} is no token of tokenizer.json")
    return _generation_stop_ids(tokenizer_dir, tokens)


def _generation_stop_ids(tokenizer_dir: Path, tokens: dict[int, str]) -> list[int]:
    given = _optional(tokenizer_dir / "generation_config.json").get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    if given is None or not ids:
        raise TokenizerInfoError(
            f"{tokenizer_dir}: nothing says what ends an answer: give eos_token in tokenizer_config.json "
            "or eos_token_id in generation_config.json"
        )
    for token_id in ids:
        if token_id not in tokens:
            raise TokenizerInfoError(f"generation_config.json: eos_token_id: {token_id!r} is no id of tokenizer.json")
    return list(ids)


def _optional(path: Path) -> dict[str, Any]:
    return _parse(_read_text(path), path) if path.exists() else {}


def _vocab_differences(expected: list[str], found: Any) -> list[str]:
    if not isinstance(found, list):
        return [f"encoded_vocab: a list is needed, found {type(found).__name__}"]
    differences = []
    if len(found) != len(expected):
        differences.append(f"encoded_vocab: has {len(found)} entries, the tokenizer has {len(expected)}")
    differences += [
        f"encoded_vocab[{token_id}]: file has {theirs!r}, tokenizer has {ours!r}"
        for token_id, (ours, theirs) in enumerate(zip(expected, found))  # noqa: B905 - lengths are reported above
        if ours != theirs
    ]
    return differences


def _text_differences(expected: str, found: Any) -> list[str]:
    if found == expected:
        return []
    if not isinstance(found, str):
        return [f"tokenizer_str: a string is needed, found {type(found).__name__}"]
    at = next((at for at, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))  # noqa: B905
    return [
        f"tokenizer_str: differs from tokenizer.json at character {at}: file has {found[at : at + 24]!r}, "
        f"tokenizer.json has {expected[at : at + 24]!r}"
    ]


def _stop_differences(expected: list[int], found: Any) -> list[str]:
    return [] if found == expected else [f"stop_token_ids: file has {found!r}, tokenizer has {expected!r}"]


app = typer.Typer(
    no_args_is_help=True,
    help="Build or check tokenizer_info.json, from which guided decoding in the engine learns the vocabulary.",
)
TokenizerDir = Annotated[
    Path,
    typer.Option(
        help="Directory with tokenizer.json and tokenizer_config.json, e.g. RELEASE/tokenizer.", show_default=False
    ),
]
_INFO_HELP = "The tokenizer info file; without it tokenizer_info.json beside the tokenizer directory."
_NEXT_DIRECTORY = "point --tokenizer-dir at a Hugging Face tokenizer directory whose files are complete"


@app.command()
def build(
    tokenizer_dir: TokenizerDir,
    output: Annotated[Path | None, typer.Option(help=_INFO_HELP, show_default=False)] = None,
) -> None:
    """Write the tokenizer info of a tokenizer. The same tokenizer always gives the same bytes.

    Example: llmstack tokenizer-info build --tokenizer-dir artifacts/current/tokenizer

    The info's hash is part of the manifest: build the manifest afterwards.
    """
    path = output or _beside(tokenizer_dir)
    try:
        info = build_info(tokenizer_dir)
        path.write_bytes(info_bytes(info))
    except TokenizerInfoError as error:
        fail(error, _NEXT_DIRECTORY)
    except OSError as error:
        fail(f"{path}: {error.strerror}", "give --output a path that can be written")
    stops = ", ".join(f"{token_id} {info['encoded_vocab'][token_id]}" for token_id in info["stop_token_ids"])
    typer.echo(f"{path}: {len(info['encoded_vocab'])} tokens, an answer ends with {stops}")


@app.command()
def check(
    tokenizer_dir: TokenizerDir,
    info: Annotated[Path | None, typer.Option(help=_INFO_HELP, show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Compare a tokenizer info file with the tokenizer and list every difference.

    Exits with 0 when they agree, 1 when they differ, 2 when one can't be read.
    """
    path = info or _beside(tokenizer_dir)
    try:
        differences = check_info(path, tokenizer_dir)
    except TokenizerInfoError as error:
        fail(error, f"{_NEXT_DIRECTORY}, and --info at a file that `llmstack tokenizer-info build` wrote")
    if as_json:
        print_json({"info": str(path), "tokenizer_dir": str(tokenizer_dir), "differences": differences})
    else:
        typer.echo("\n".join(differences) if differences else f"{path} agrees with {tokenizer_dir}")
    if differences:
        raise typer.Exit(DIFFERENT)


def _beside(tokenizer_dir: Path) -> Path:
    return tokenizer_dir.resolve().parent / "tokenizer_info.json"
