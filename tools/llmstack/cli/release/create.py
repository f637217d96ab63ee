"""`llmstack release create`: a release from a Hugging Face model directory, in one command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from llmstack.cli.manifest_tasks import OwnTasks, TaskMaxTokens, TaskSchemas, parse_tasks
from llmstack.cli.release.errors import os_error_text
from llmstack.cli.release.options import ArtifactsDir, AsJson
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_ARTIFACTS_DIR

if TYPE_CHECKING:
    from llm_policy.release.release import Release

_MAX_TOKENS, _MAX_PROMPT_TOKENS = 6_000, 4_096


def create(
    name: Annotated[str, typer.Argument(help="The new release's name.", show_default=False)],
    from_hf: Annotated[
        Path,
        typer.Option(
            "--from-hf",
            metavar="DIR",
            help="A Hugging Face model directory: config.json, *.safetensors, tokenizer.json, tokenizer_config.json.",
            show_default=False,
        ),
    ],
    chat_template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A Jinja chat template in place of the model's.", show_default=False),
    ] = None,
    schema: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: a JSON Schema to register. Repeatable.", show_default=False)
    ] = None,
    task: OwnTasks = None,
    task_schema: TaskSchemas = None,
    task_max_tokens: TaskMaxTokens = None,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Make hard links to the weights in place of copies; the files must not change any more.",
        ),
    ] = False,
    model: Annotated[str | None, typer.Option(help="Name of the model.", show_default="NAME")] = None,
    quantisation: Annotated[
        str | None,
        typer.Option(help="Quantisation label that every client must send.", show_default="from config.json"),
    ] = None,
    input_usd_per_million: Annotated[float, typer.Option(help="Price of a million prompt tokens, in dollars.")] = 0.10,
    output_usd_per_million: Annotated[
        float, typer.Option(help="Price of a million completion tokens, in dollars.")
    ] = 0.30,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Longer prompts are rejected.", show_default="4096, or what the model takes")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Limit on prompt and completion together.", show_default="6000, or what the model takes"),
    ] = None,
    max_cost_usd: Annotated[float, typer.Option(help="Limit on one request's cost, in dollars.")] = 0.10,
    on_cost_breach: Annotated[
        Literal["notify", "reject"],
        typer.Option(help="Serve a request above the cost limit and alert finance, or reject it."),
    ] = "notify",
    max_batch_size: Annotated[int, typer.Option(help="Requests that the engine runs concurrently.")] = 4,
    max_queue_delay_us: Annotated[int, typer.Option(help="A longer queue delay raises an alert.")] = 2_500,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a release from a Hugging Face model directory, and register it as a candidate.

    Writes engine, tokenizer, tokenizer_info.json, schemas, manifest.json and build_manifest.json into the store.

    Example: llmstack release create qwen3-4b-r1 --from-hf models/Qwen3-4B --schema order=order.json
    --task-schema generate_json=order
    """
    from llm_policy.release.manifest import ManifestError
    from llm_policy.release.release import ReleaseError
    from llmstack.release.build_manifest import Build
    from llmstack.release.create import ModelSource, create_release
    from llmstack.release.hugging_face import ModelDirectoryError, quantisation_label, read_config
    from llmstack.release.load_check import ReleaseWouldNotLoad
    from llmstack.release.store import ReleaseStore, StoreError
    from llmstack.tokenizer.tokenizer_info import TokenizerInfoError

    source = ModelSource(from_hf, _schemas(schema or ()), chat_template, links=link)
    tasks = parse_tasks(task, task_schema, task_max_tokens)
    console = Console(stderr=True, highlight=False)
    try:
        config = read_config(from_hf) if (from_hf / "config.json").is_file() else {}
        limits = _limits(config, max_tokens, max_prompt_tokens)
        settings = {
            "engine": {
                "quantisation": quantisation or quantisation_label(config),
                "model": model or name,
                "max_batch_size": max_batch_size,
            },
            "thresholds": {**limits, "max_queue_delay_us": max_queue_delay_us, "max_cost_usd": max_cost_usd},
            "prices": {
                "input_usd_per_million": input_usd_per_million,
                "output_usd_per_million": output_usd_per_million,
            },
            "on_cost_breach": on_cost_breach,
            "tasks": tasks,
        }
        with console.status("reading the model") as status:
            build = Build(command=shlex.join(["llmstack", *sys.argv[1:]]))
            release = create_release(ReleaseStore(artifacts), name, source, settings, build, status.update)
    except ModelDirectoryError as error:
        fail(error, error.next_step)
    except ReleaseWouldNotLoad as error:
        fail(f"the release would not load:\n{error}", error.next_step)
    except TokenizerInfoError as error:
        fail(error, "correct the tokenizer's files; `llmstack tokenizer-info build --help` says what they need")
    except ManifestError as error:
        fail(f"the manifest is not valid:\n{error}", "correct the options above; --help explains each one")
    except StoreError as error:
        fail(error, "choose another name; llmstack release list shows those that are taken")
    except ReleaseError as error:
        fail(error, "replace it by a regular, readable file")
    except OSError as error:
        fail(os_error_text(error), "make the artifacts directory writable, and free disk space", EXIT_FAILED)
    _report(release, config, as_json)


def _schemas(texts: Sequence[str]) -> dict[str, Path]:
    schemas = {}
    for text in texts:
        name, separator, file = text.partition("=")
        if not name or not separator or not Path(file).is_file():
            raise typer.BadParameter(f"{text!r}: NAME=FILE with an existing file is needed", param_hint="--schema")
        schemas[name] = Path(file)
    return schemas


def _limits(config: dict[str, Any], max_tokens: int | None, max_prompt_tokens: int | None) -> dict[str, int]:
    """The limits in tokens. The defaults are the manifest's where the model takes as many, else the model's."""
    from llmstack.release.hugging_face import longest_sequence

    total = max_tokens or min(_MAX_TOKENS, longest_sequence(config) or _MAX_TOKENS)
    prompt = max_prompt_tokens or min(_MAX_PROMPT_TOKENS, total * 7 // 10)
    return {"max_tokens": total, "max_prompt_tokens": prompt}


def _report(release: Release, config: dict[str, Any], as_json: bool) -> None:
    from llmstack.release.hugging_face import architectures, portable_engine_finding

    manifest, directory = release.manifest, release.directory
    names = ", ".join(architectures(config)) or str(config.get("model_type"))
    finding = portable_engine_finding(config)
    if as_json:
        print_json(
            {"release": directory.name, "architecture": names, "portable_engine": finding, **manifest.model_dump()}
        )
        return
    thresholds, prices = manifest.thresholds, manifest.prices
    typer.echo(f"{directory.name} is a candidate: engine {manifest.engine.hash}")
    for key, value in {
        "directory": directory,
        "model": f"{manifest.engine.model}, quantisation {manifest.engine.quantisation}",
        "limits": f"{thresholds.max_prompt_tokens} prompt tokens, {thresholds.max_tokens} with the completion, "
        f"{thresholds.max_cost_usd} USD a request, then {manifest.on_cost_breach}",
        "prices": f"{prices.input_usd_per_million} and {prices.output_usd_per_million} USD per million prompt and "
        "completion tokens",
        "engine": f"{manifest.engine.max_batch_size} requests at once, alert after a queue delay of "
        f"{thresholds.max_queue_delay_us} µs",
        "tasks": ", ".join(manifest.tasks),
        "schemas": ", ".join(sorted(manifest.schemas)) or "none",
        "architecture": names,
    }.items():
        typer.echo(f"  {key:13} {value}")
    if finding:
        typer.echo(
            f"warning: --engine embedded may not run {names}: {finding}. vLLM and TensorRT-LLM have lists of their "
            "own: serve with --engine vllm, for example",
            err=True,
        )
    engine = " --engine vllm" if finding else ""
    typer.echo(f"next: llmstack serve{engine} --release {directory}")
    typer.echo(f"then: llmstack warmup --release {directory}, smoke, sign-offs, promote (docs/releases.md)")
