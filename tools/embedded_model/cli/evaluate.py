"""`python -m embedded_model evaluate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from embedded_model.evaluation.run import GUIDED, UNGUIDED, Evaluation, EvaluationSettings, Report
from embedded_model.evaluation.scores import EvaluationError, ScoredAnswer
from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llmstack.cli.server_start import exit_with_error, wait_with_progress
from llmstack.cli.terminal import fail, print_json
from llmstack.client.ensemble_client import Server, ServerUrls
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.server.release import open_release

_PROGRESS_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
_SCORES = ("schema_valid", "exact", "field_accuracy", "top1", "full_order", "verdict")


def evaluate(
    release_dir: Annotated[
        Path, typer.Option("--release", envvar="LLMSTACK_RELEASE_DIR", help="The release to evaluate.")
    ] = DEFAULT_RELEASE_DIR,
    url: Annotated[
        str | None,
        typer.Option(help="HTTP URL of a server that runs this release. Without it a server is started and stopped."),
    ] = None,
    api_key: Annotated[
        str,
        typer.Option(envvar="LLMSTACK_API_KEY", help="With --url: the API key of a tenant.", show_default=False),
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="Prompts per task.")] = 300,
    out_of_distribution: Annotated[
        int, typer.Option(min=0, help="Further prompts per task, in formats, domains and schemas that training lacks.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the held-out prompts.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Number of concurrent calls.")] = 4,
    show_wrong: Annotated[int, typer.Option(min=0, help="Wrong answers to print for each task and kind.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Send held-out prompts of the three tasks through the ensemble and score the answers.

    Training uses none of their names, words, dates and numbers above 99, but the same formats. A second set is out of
    distribution in its formats too. Each prompt is sent with guided decoding and without.

    Example: python -m embedded_model evaluate --count 50 --show-wrong 2
    """
    console = Console(stderr=True, highlight=False)
    settings = EvaluationSettings(count, out_of_distribution, seed, concurrency)
    try:
        release = open_release(release_dir)
        with _server(release, url, console) as server:
            evaluation = Evaluation(server, release, settings, api_key)
            report = _run(evaluation, console, count, show_wrong, is_out_of_distribution=False)
            further = (
                _run(evaluation, console, out_of_distribution, show_wrong, is_out_of_distribution=True)
                if out_of_distribution
                else {}
            )
    except ServerStartError as error:
        exit_with_error(error)
    except EvaluationError as error:
        fail(f"a reply can't be scored: {error}", "evaluate an embedded release on a server that runs it")
    if as_json:
        print_json({**report, "out_of_distribution": further, "run": evaluation.run_record()})
        return
    Console().print(_table(report, f"{count} held-out prompts per task, through the ensemble"))
    if further:
        Console().print(_table(further, f"{out_of_distribution} out-of-distribution prompts per task"))


@contextlib.contextmanager
def _server(release: Release, url: str | None, console: Console) -> Iterator[Server]:
    """The server at `url`, or one that runs until the context ends."""
    if url is not None:
        yield ServerUrls(url.rstrip("/"))
        return
    server = TritonServer(release_dir=release.directory, engine="embedded")
    try:
        server.start()
        wait_with_progress(server, console)
        yield server
    finally:
        server.stop()


def _run(evaluation: Evaluation, console: Console, count: int, show_wrong: int, is_out_of_distribution: bool) -> Report:
    """Run the evaluation with a progress bar per task and kind."""
    with Progress(*_PROGRESS_COLUMNS, console=console, transient=True) as progress:
        rows = {
            (task, kind): progress.add_task(f"{task}, {kind}", total=count, start=False)
            for task in TASKS
            for kind in (GUIDED, UNGUIDED)
        }

        def on_answer(task: str, kind: str) -> None:
            progress.start_task(rows[task, kind])
            progress.advance(rows[task, kind])

        return evaluation.run(
            is_out_of_distribution, on_answer, lambda answers: print_wrong_answers(answers, console, show_wrong)
        )


def print_wrong_answers(answers: list[ScoredAnswer], console: Console, limit: int) -> None:
    """Print up to `limit` wrong answers with their prompts."""
    wrong = [answer for answer in answers if not answer.scores["exact"]]
    for answer in wrong[:limit]:
        prompt = f"{answer.example.system}\n{answer.example.user}".strip()
        text = f"{prompt}\nexpected {answer.example.answer_text}\ngot      {answer.answer_text}\n"
        console.print(text, markup=False)  # a model's text may look like markup


def _table(report: Report, title: str) -> Table:
    table = Table(title=title)
    table.add_column("task", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in _SCORES:
        table.add_column(name.replace("_", " "), justify="right")
    for task, kinds in report.items():
        for kind, scores in kinds.items():
            cells = [f"{scores[name]:.1%}" if name in scores else "" for name in _SCORES]
            table.add_row(task if kind == GUIDED else "", kind, *cells, end_section=kind == UNGUIDED)
    return table
