"""`llmstack embedded-model`: the release that serves without a GPU, built from nothing but a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from llm_policy.release import Release
from llmstack import embedded_tokenizer, embedded_weights
from llmstack.embedded_schemas import SCHEMAS
from llmstack.manifest import describe_release, manifest_bytes
from llmstack.terminal import fail
from llmstack.tokenizer_info import build_info, info_bytes

MODEL_NAME = "embedded-qwen3-stand-in"
# The production label, so that clients written for production work unchanged; the weights are bfloat16.
QUANTISATION = "w4a8"

SETTINGS = {
    "engine": {"quantisation": QUANTISATION, "model": MODEL_NAME, "max_batch_size": 4},
    "prices": {"input_usd_per_million": 0.10, "output_usd_per_million": 0.30},
    "tasks": {
        "generate_json": {"temperature": 0.0, "schema_id": "order", "max_tokens": 256},
        "rank_candidates": {"temperature": 0.0, "schema_id": "ranking", "max_tokens": 256},
        "judge": {"temperature": 0.1, "top_p": 0.9, "schema_id": "verdict", "max_tokens": 256},
    },
}

MODEL_CARD = """\
# embedded-qwen3-stand-in

A model that knows nothing. It has Qwen3's architecture, tokenizer rules, control tokens and chat format in
2.5 MiB, so that the whole serving stack runs on a laptop without a GPU and without a download. Its answers are noise
in the shape that was asked for: valid JSON under a guide, random words without one.

| | |
|---|---|
| Architecture | Qwen3ForCausalLM, {layers} layers, hidden size {hidden}, {heads} heads, {kv_heads} key/value heads |
| Weights | bfloat16, drawn at random from seed {seed}; never trained |
| Vocabulary | {vocab} entries: byte-level BPE trained on generated text, and Qwen3's 26 added tokens |
| Context | {context} tokens |
| Quantisation | none; the label `{quantisation}` in the manifest is production's (see below) |
| Licence | Apache-2.0, like the code that builds it |

The weights are bfloat16, not quantised. The manifest still says `{quantisation}`, because clients must send that label
with every request and those written for production shall work here unchanged.

Use it to develop clients, to test and to demonstrate. Use nothing it says.

Build it again, byte for byte, in a second:

    llmstack embedded-model build --output DIR --seed {seed}

Check it: `llmstack manifest verify DIR`. Its engine hash is what `llmstack manifest summary DIR` shows, or

    cd DIR/engine && find -L . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
"""

app = typer.Typer(no_args_is_help=True, help="The release that serves without a GPU: a random Qwen3 of 2.5 MiB.")


def build_release(directory: Path, seed: int, report: Callable[[str], None] = lambda step: None) -> Release:
    """Write the embedded release to `directory` and prove it. The same seed gives the same bytes.

    `report` is told each step before it starts.

    Raises:
        OSError: `directory` can't be written.
    """
    report("training the tokenizer")
    tokenizer = embedded_tokenizer.train_tokenizer()
    embedded_tokenizer.write_tokenizer(directory / "tokenizer", tokenizer)
    (directory / "tokenizer_info.json").write_bytes(info_bytes(build_info(directory / "tokenizer")))
    report("drawing the weights")
    _write_engine(directory / "engine", tokenizer, seed)
    report("writing schemas, model card and manifest")
    _write_schemas(directory / "schemas")
    (directory / "README.md").write_bytes(_model_card(seed).encode())
    (directory / "manifest.json").write_bytes(manifest_bytes(describe_release(directory, SETTINGS)))
    report("verifying the release")
    return Release.open(directory).verify_files()


NUM_STEPS = 4


def _write_engine(directory: Path, tokenizer: Tokenizer, seed: int) -> None:
    embedded_weights.write_engine(
        directory,
        vocab_size=embedded_tokenizer.VOCAB_SIZE,
        max_positions=embedded_tokenizer.MAX_LENGTH,
        added_ids=embedded_tokenizer.added_ids(tokenizer),
        seed=seed,
    )


def _write_schemas(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name, schema in SCHEMAS.items():
        (directory / f"{name}.json").write_bytes((json.dumps(schema, indent=2) + "\n").encode())


def _model_card(seed: int) -> str:
    return MODEL_CARD.format(
        layers=embedded_weights.LAYERS,
        hidden=embedded_weights.HIDDEN,
        heads=embedded_weights.HEADS,
        kv_heads=embedded_weights.KV_HEADS,
        vocab=f"{embedded_tokenizer.VOCAB_SIZE:,}",
        context=f"{embedded_tokenizer.MAX_LENGTH:,}",
        quantisation=QUANTISATION,
        seed=seed,
    )


@app.command()
def build(
    output: Annotated[Path, typer.Option(help="Directory to write the release to.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in the directory.")] = False,
) -> None:
    """Build the embedded release. The same command and seed give the same bytes on every machine.

    Example: llmstack embedded-model build --output artifacts/releases/embedded --force
    """
    try:
        _make_room(output, force)
        release = _build_with_progress(output, seed)
    except OSError as error:
        fail(f"{output}: {error.strerror}", "give --output a directory that can be written")
    typer.echo(f"{output}: {release.manifest.engine.model}, engine {release.manifest.engine.hash}")
    typer.echo(f"Serve it: llmstack serve --release {output}")


def _make_room(output: Path, force: bool) -> None:
    if not output.exists() or not any(output.iterdir()):
        return
    if not force:
        fail(f"{output} is not empty", "add --force to replace what is in it, or name another directory")
    if not (output / "manifest.json").exists():
        fail(f"{output} holds no release, so --force won't delete it", "name another directory, or empty this one")
    shutil.rmtree(output)


def _build_with_progress(output: Path, seed: int) -> Release:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=NUM_STEPS + 1)

        def report(step: str) -> None:
            progress.update(bar, description=step, advance=1)

        return build_release(output, seed, report)
