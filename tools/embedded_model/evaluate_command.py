"""`llmstack embedded-model evaluate`: held-out prompts through the ensemble, with and without guidance."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from embedded_model.evaluation import EvaluationError, Scores, TaskResult, all_examples, evaluate_task, mean_scores
from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llmstack.cli.server_start import give_up, start_visibly
from llmstack.cli.terminal import fail, print_json
from llmstack.client.ensemble_client import Server, ServerUrls
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.server.release import open_release

_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
_FIGURES = ("schema_valid", "exact", "field_accuracy", "top1", "full_order", "verdict")
GUIDED, UNGUIDED = "guided", "unguided"
_PACKAGES = ("torch", "transformers", "xgrammar")

Report = dict[str, dict[str, Scores]]


class Asking(NamedTuple):
    """Whom to ask, and how."""

    server: Server
    release: Release
    console: Console
    seed: int
    concurrency: int
    show_wrong: int


def evaluate(
    release_dir: Annotated[
        Path, typer.Option("--release", envvar="LLMSTACK_RELEASE_DIR", help="The release to evaluate.")
    ] = DEFAULT_RELEASE_DIR,
    url: Annotated[
        str | None,
        typer.Option(help="HTTP address of a server that runs this release. Without it, one is started and stopped."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts a task.")] = 300,
    unfamiliar: Annotated[
        int, typer.Option(min=0, help="Prompts a task besides, in forms and of schemas that training never shows.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Which held-out prompts.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Prompts under way at a time.")] = 4,
    show_wrong: Annotated[int, typer.Option(min=0, help="Print so many wrong answers of each kind.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the shares as JSON.")] = False,
) -> None:
    """Send held-out prompts of the three tasks through the ensemble and score the answers.

    Their names, words, dates and numbers above 99 are none that training shows; their forms are those of training. A
    further set is asked in forms that training doesn't show. Each prompt is sent with guidance and without, so that
    what guidance buys is visible.

    Example: llmstack embedded-model evaluate --count 50 --show-wrong 2
    """
    console = Console(stderr=True, highlight=False)
    try:
        release = open_release(release_dir)
        with _server(release, url, console) as server:
            ask = Asking(server, release, console, seed, concurrency, show_wrong)
            report = _evaluate(ask, count, is_familiar=True)
            further = _evaluate(ask, unfamiliar, is_familiar=False) if unfamiliar else {}
    except ServerStartError as error:
        give_up(error)
    except EvaluationError as error:
        fail(f"a reply can't be scored: {error}", "evaluate an embedded release, and a server that runs it")
    if as_json:
        print_json({**report, "unfamiliar": further, "run": _run(release, count, unfamiliar, seed)})
        return
    Console().print(_table(report, f"{count} held-out prompts a task, through the ensemble"))
    if further:
        Console().print(_table(further, f"{unfamiliar} prompts a task in forms that training doesn't show"))


@contextlib.contextmanager
def _server(release: Release, url: str | None, console: Console) -> Iterator[Server]:
    """The server at `url`, or one of our own for as long as this lasts."""
    if url is not None:
        yield ServerUrls(url.rstrip("/"))
        return
    server = TritonServer(release_dir=release.directory, engine="embedded")
    try:
        server.start()
        start_visibly(server, console)
        yield server
    finally:
        server.stop()


def _evaluate(ask: Asking, count: int, is_familiar: bool) -> Report:
    engine = ask.release.manifest.engine
    headers = {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}
    report: Report = {}
    with Progress(*_COLUMNS, console=ask.console, transient=True) as progress:
        for task, examples in all_examples(ask.seed, count, is_familiar):
            report[task] = {}
            for kind in (GUIDED, UNGUIDED):
                row = progress.add_task(f"{task}, {kind}", total=count)
                results = evaluate_task(
                    ask.server,
                    ask.release,
                    headers,
                    task,
                    kind == GUIDED,
                    examples,
                    ask.concurrency,
                    lambda row=row: progress.advance(row),  # type: ignore[misc]
                )
                report[task][kind] = mean_scores(results)
                _show_wrong(results, ask.console, ask.show_wrong)
    return report


def _show_wrong(results: list[TaskResult], console: Console, most: int) -> None:
    wrong = [result for result in results if not result.scores["exact"]]
    for result in wrong[:most]:
        asked = f"{result.example.system}\n{result.example.user}".strip()
        text = f"{asked}\nwanted {result.example.answer_text}\ngot    {result.answer_text}\n"
        console.print(text, markup=False)  # a model's text may look like markup


def _run(release: Release, count: int, unfamiliar: int, seed: int) -> dict[str, Any]:
    """What the figures are of: without it they can't be told from another model's."""
    return {
        "engine_hash": release.manifest.engine.hash,
        "count": count,
        "unfamiliar_count": unfamiliar,
        "seed": seed,
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _table(report: Report, title: str) -> Table:
    table = Table(title=title)
    table.add_column("task", no_wrap=True)
    table.add_column("", no_wrap=True)
    for figure in _FIGURES:
        table.add_column(figure.replace("_", " "), justify="right")
    for task, kinds in report.items():
        for kind, scores in kinds.items():
            cells = [f"{scores[figure]:.1%}" if figure in scores else "" for figure in _FIGURES]
            table.add_row(task if kind == GUIDED else "", kind, *cells, end_section=kind == UNGUIDED)
    return table
