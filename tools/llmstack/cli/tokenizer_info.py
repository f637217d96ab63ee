"""`llmstack tokenizer-info`: build and check tokenizer_info.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.command_group import CommandGroup
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Build or check tokenizer_info.json, from which the engine's guided decoding learns the vocabulary."
    "\n\nExample: llmstack tokenizer-info build --tokenizer-dir build/my-release/tokenizer",
)
TokenizerDir = Annotated[
    Path,
    typer.Option(
        help="Directory with tokenizer.json and tokenizer_config.json, e.g. RELEASE/tokenizer.", show_default=False
    ),
]
_INFO_HELP = (
    "The tokenizer info file. Default: tokenizer_info.json beside a directory named tokenizer, as a release has it, "
    "and inside any other."
)
_NEXT_DIRECTORY = "set --tokenizer-dir to a Hugging Face tokenizer directory whose files are complete"


@app.command()
def build(
    tokenizer_dir: TokenizerDir,
    output: Annotated[Path | None, typer.Option(help=_INFO_HELP, show_default=False)] = None,
) -> None:
    """Write the tokenizer info of a tokenizer. The same tokenizer always gives the same bytes.

    Example: llmstack tokenizer-info build --tokenizer-dir artifacts/current/tokenizer

    The manifest contains the file's hash: build the manifest afterwards.
    """
    from llmstack.tokenizer.tokenizer_info import TokenizerInfoError, build_info, default_info_path, info_bytes

    path = output or default_info_path(tokenizer_dir)
    try:
        info = build_info(tokenizer_dir)
        path.write_bytes(info_bytes(info))
    except TokenizerInfoError as error:
        fail(error, _NEXT_DIRECTORY)
    except OSError as error:
        fail(f"{path}: {error.strerror}", "set --output to a writable path")
    stops = ", ".join(f"{token_id} {info['encoded_vocab'][token_id]}" for token_id in info["stop_token_ids"])
    typer.echo(f"{path}: {len(info['encoded_vocab'])} tokens, stop tokens: {stops}")


@app.command()
def check(
    tokenizer_dir: TokenizerDir,
    info: Annotated[Path | None, typer.Option(help=_INFO_HELP, show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Compare a tokenizer info file with the tokenizer and list every difference.

    Exits with 0 if they agree, 1 if they differ, 2 if one can't be read.

    Example: llmstack tokenizer-info check --tokenizer-dir build/my-release/tokenizer
    """
    from llmstack.tokenizer.tokenizer_info import TokenizerInfoError, check_info, default_info_path

    path = info or default_info_path(tokenizer_dir)
    try:
        differences = check_info(path, tokenizer_dir)
    except TokenizerInfoError as error:
        fail(error, f"{_NEXT_DIRECTORY}, and --info to a file from `llmstack tokenizer-info build`")
    if as_json:
        print_json({"info": str(path), "tokenizer_dir": str(tokenizer_dir), "differences": differences})
    else:
        typer.echo("\n".join(differences) if differences else f"{path} agrees with {tokenizer_dir}")
    if differences:
        raise typer.Exit(EXIT_FAILED)
