"""`llmstack manifest`: write a release's runtime manifest, verify it, and show its summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from llmstack.cli.command_group import CommandGroup
from llmstack.cli.manifest_tasks import OwnTasks, TaskMaxTokens, TaskSchemas, parse_tasks
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR

if TYPE_CHECKING:
    from llm_policy.prompt_runtime import Difference, PromptRuntimeManager
    from llmstack.release.load_check import LoadProblem

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Write, verify and show a release's runtime manifest: its engine, its limits and prices, its tasks."
    "\n\nExample: llmstack manifest verify artifacts/releases/embedded",
)

ReleaseDir = Annotated[
    Path,
    typer.Argument(
        envvar="LLMSTACK_RELEASE_DIR",
        help="The release: manifest.json, engine/ or engine.plan, tokenizer/, tokenizer_info.json, schemas/.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_SUMMARY_WIDTH = 116
_NEXT_BUILD_INFO = (
    "put the engine in RELEASE_DIR/engine (or engine.plan) and write tokenizer_info.json with "
    "`llmstack tokenizer-info build --tokenizer-dir RELEASE_DIR/tokenizer`"
)
_NEXT_RELEASE = "name a release directory, set LLMSTACK_RELEASE_DIR, or build one with `python -m embedded_model build`"


@app.command()
def build(
    quantisation: Annotated[
        str, typer.Option(help="Quantisation label that every client must send, e.g. w4a8.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Name of the model, e.g. Qwen3-32B.", show_default=False)],
    input_usd_per_million: Annotated[
        float, typer.Option(help="Price of a million prompt tokens, in steps of 0.001 USD.", show_default=False)
    ],
    output_usd_per_million: Annotated[
        float, typer.Option(help="Price of a million completion tokens, in steps of 0.001 USD.", show_default=False)
    ],
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    max_batch_size: Annotated[int, typer.Option(help="Requests that the engine runs concurrently.")] = 4,
    max_queue_size: Annotated[
        int, typer.Option(help="Requests that may wait for their answers; more are rejected.")
    ] = 64,
    max_queue_delay_us: Annotated[int, typer.Option(help="A longer queue delay raises an alert.")] = 2_500,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longer prompts are rejected.")] = 4_096,
    max_tokens: Annotated[int, typer.Option(help="Limit on prompt and completion together.")] = 6_000,
    max_cost_usd: Annotated[float, typer.Option(help="Limit on one request's cost.")] = 0.10,
    on_cost_breach: Annotated[
        Literal["notify", "reject"],
        typer.Option(help="Serve a request above the cost limit and alert finance, or reject it."),
    ] = "notify",
    unenforced_keywords: Annotated[
        Literal["report", "reject"],
        typer.Option(help="What to do with schema keywords that the grammar can't enforce."),
    ] = "report",
    allow_adhoc: Annotated[bool, typer.Option(help="Whether clients may send their own guides.")] = True,
    task: OwnTasks = None,
    task_schema: TaskSchemas = None,
    task_max_tokens: TaskMaxTokens = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing manifest.json and show the differences.")
    ] = False,
) -> None:
    """Hash the engine and the tokenizer info of a release and write its manifest.json.

    Every schemas/NAME.json is registered under its name. The same rules check the manifest here and when it is served.
    What would keep the release from loading is an error: a tokenizer without chat template, a schema that can't be
    enforced, missing weights.

    Example:

        llmstack manifest build releases/qwen3-32b --quantisation w4a8 --model Qwen3-32B \\
            --input-usd-per-million 0.10 --output-usd-per-million 0.30 \\
            --task-schema judge=verdict --task-max-tokens judge=256
    """
    settings = {
        "engine": {
            "quantisation": quantisation,
            "model": model,
            "max_batch_size": max_batch_size,
            "max_queue_size": max_queue_size,
        },
        "thresholds": {
            "max_queue_delay_us": max_queue_delay_us,
            "max_prompt_tokens": max_prompt_tokens,
            "max_tokens": max_tokens,
            "max_cost_usd": max_cost_usd,
        },
        "prices": {
            "input_usd_per_million": input_usd_per_million,
            "output_usd_per_million": output_usd_per_million,
        },
        "on_cost_breach": on_cost_breach,
        "tasks": parse_tasks(task, task_schema, task_max_tokens),
        "guidance": {"unenforced_keywords": unenforced_keywords, "allow_adhoc": allow_adhoc},
    }
    _write(release_dir, settings, force)


def _write(directory: Path, settings: Mapping[str, Any], force: bool) -> None:
    from llm_policy.release.manifest import ManifestError
    from llm_policy.release.release import ReleaseError
    from llmstack.release.load_check import ReleaseWouldNotLoad
    from llmstack.release.manifest_file import write_manifest

    path = directory / "manifest.json"
    if path.exists() and not force:
        fail(f"{path} exists", "add --force to replace it: requests with the old engine hash are then rejected")
    try:
        with Console(stderr=True).status("hashing the engine"):
            manifest, differences = write_manifest(directory, settings)
    except ManifestError as error:
        fail(f"the manifest is not valid:\n{error}", "correct the options above; --help explains each one")
    except ReleaseWouldNotLoad as error:
        fail(f"the release would not load:\n{error}", error.next_step)
    except ReleaseError as error:
        fail(error, _NEXT_BUILD_INFO)
    except OSError as error:
        fail(f"{path}: {error.strerror}", "make the release directory writable")
    if differences:
        Console().print(_differences_table("Differences", ("before", "now"), differences))
    typer.echo(f"{path}: engine {manifest.engine.hash}, {len(manifest.schemas)} schemas")


@app.command()
def verify(
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another manifest.json, a release directory or a manifest of the evaluation side. Repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a release's files with its manifest, and its manifest with others, and find what keeps it from loading.

    Exits with 0 when all agree and the release would load, 1 otherwise, 2 when something can't be read.

    Example: llmstack manifest verify artifacts/current --against ../evaluation/manifest.json
    """
    from llmstack.release.load_check import find_load_problems

    runtime = _runtime(release_dir)
    compared = {str(path): _compare(runtime, path) for path in against or []}
    with Console(stderr=True).status("hashing the engine"):
        file_differences = runtime.release.check_files()
    with Console(stderr=True).status("checking that it loads"):
        problems = find_load_problems(runtime.release.directory, runtime.release.manifest)
    if as_json:
        print_json(_verification_document(runtime, file_differences, problems, compared))
    else:
        _print_verification(runtime, file_differences, problems, compared)
    if file_differences or problems or any(compared.values()):
        raise typer.Exit(EXIT_FAILED)


def _runtime(release_dir: Path) -> PromptRuntimeManager:
    from llm_policy.prompt_runtime import PromptRuntimeManager
    from llm_policy.release.release import ReleaseError

    try:
        return PromptRuntimeManager(release_dir)
    except ReleaseError as error:
        fail(error, _NEXT_RELEASE)


def _compare(runtime: PromptRuntimeManager, path: Path) -> list[Difference]:
    from llm_policy.release.manifest import ManifestError
    from llmstack.release.evaluation_manifest import read_evaluation_manifest

    file = path / "manifest.json" if path.is_dir() else path
    try:
        return runtime.verify(read_evaluation_manifest(file).manifest)
    except (ManifestError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"\n{error}"
        fail(f"{file}: {reason}", "give --against a valid manifest.json or a release directory")


def _verification_document(
    runtime: PromptRuntimeManager,
    file_differences: list[str],
    problems: list[LoadProblem],
    compared: Mapping[str, list[Difference]],
) -> dict[str, Any]:
    return {
        "release": str(runtime.release.directory),
        "manifest_hash": runtime.release.manifest_hash,
        "files": file_differences,
        "load": [problem._asdict() for problem in problems],
        "against": [
            {"manifest": path, "differences": [difference._asdict() for difference in differences]}
            for path, differences in compared.items()
        ],
        "agrees": not file_differences and not problems and not any(compared.values()),
    }


def _print_verification(
    runtime: PromptRuntimeManager,
    file_differences: list[str],
    problems: list[LoadProblem],
    compared: Mapping[str, list[Difference]],
) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{runtime.release.directory}", markup=False)
    for difference in file_differences:
        console.print(f"  differs: {difference}", style="red", markup=False)
    if not file_differences:
        console.print("  files agree with the manifest", style="green")
    for problem in problems:
        console.print(f"  would not load: {problem.text}", style="red", markup=False)
        console.print(f"      next: {problem.next_step}", markup=False)
    if not problems:
        console.print("  tokenizer, schemas and engine files would load", style="green")
    for path, differences in compared.items():
        if differences:
            console.print(_differences_table(path, ("this release", "other"), differences))
        else:
            console.print(f"  agrees with {path}", style="green", markup=False)


def _differences_table(title: str, columns: tuple[str, str], differences: list[Difference]) -> Table:
    value_columns = (Column(name, overflow="fold") for name in columns)
    table = Table(Column("key", no_wrap=True), *value_columns, title=title, title_justify="left")
    for key, ours, theirs in differences:
        table.add_row(key, _cell(ours), _cell(theirs))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


@app.command()
def summary(release_dir: ReleaseDir = DEFAULT_RELEASE_DIR, as_json: AsJson = False) -> None:
    """Show a release's hashes, thresholds, tasks and schemas. The evaluation side reads the JSON form.

    Example: llmstack manifest summary artifacts/current --json
    """
    from llm_policy.release.release import ReleaseError

    try:
        document = _runtime(release_dir).summary()
    except ReleaseError as error:
        fail(error, "restore the schema file, or build the manifest again")
    if as_json:
        print_json(document)
    else:
        console = Console()
        # Wide enough for a hash in one piece, which users copy; a narrower terminal wraps it itself.
        console.width = max(console.width, _SUMMARY_WIDTH)
        console.print(_summary_table(document))


def _summary_table(document: Mapping[str, Any]) -> Table:
    table = Table("key", Column("value", overflow="fold"), show_header=False, box=None)
    for key, value in document.items():
        if not isinstance(value, Mapping):
            table.add_row(key, str(value))
            continue
        for name, entry in value.items():
            table.add_row(f"{key}.{name}", entry if isinstance(entry, str) else json.dumps(entry))
    return table
