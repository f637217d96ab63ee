"""`llmstack demo`: starts a server, and sends it each kind of request over each protocol."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from llmstack.cli.server_start import exit_with_error, wait_with_progress
from llmstack.cli.terminal import EXIT_FAILED, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llm_policy.release.release import Release
    from llmstack.demo.run import CaseResult

# The width of answers in a narrow and in a wide terminal; an error's code fits in both.
MIN_ANSWER_CHARS, MAX_ANSWER_CHARS, WIDE_CHARS = 21, 64, 130


def demo(
    release_dir: Annotated[
        Path, typer.Option("--release", envvar="LLMSTACK_RELEASE_DIR", help="The release to show.")
    ] = DEFAULT_RELEASE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Start the server with the embedded engine and send it each kind of request.

    One request for each task and one for each kind of rejection, in four ways: HTTP /infer, /generate and
    /generate_stream, and gRPC; then a chat by OpenAI's SDK, where the package openai is installed. Exits with 0 when
    every reply is as expected, else with 1. The embedded model is trained for the three tasks, so its answers must be
    correct.

    Example: llmstack demo --json
    """
    from llmstack.server.release import open_release

    console = Console(stderr=as_json, highlight=False)
    try:
        release = open_release(release_dir)
        results = _run(release, console)
    except ServerStartError as error:
        exit_with_error(error)
    if as_json:
        print_json([result._asdict() for result in results])
    else:
        _print_answers(results, console)
        _print_table(results, console)
        _print_summary(results, console)
    if any(result.fault for result in results):
        raise typer.Exit(EXIT_FAILED)


def _run(release: Release, console: Console) -> list[CaseResult]:
    from llmstack.demo.cases import demo_cases
    from llmstack.demo.run import WAYS, run_cases, run_chat
    from llmstack.server.process import TritonServer

    server = TritonServer(release_dir=release.directory, engine="embedded")
    try:
        server.start()
        wait_with_progress(server, console)
        cases = demo_cases(release)
        results = chain(run_cases(server, cases), run_chat(server, cases))
        return list(track(results, "sending", len(cases) * len(WAYS) + 1, console=console, transient=True))
    finally:
        with console.status("stopping the server"):
            server.stop()


def _print_answers(results: list[CaseResult], console: Console) -> None:
    """Print the whole prompt and answer of each task."""
    from llmstack.demo.cases import TASK_PROMPTS

    for prompt in TASK_PROMPTS:
        answer = next(result.answer for result in results if result.case == prompt.task)
        console.print(f"\n[bold]{prompt.task}[/]")
        console.print(prompt.user, markup=False, soft_wrap=True)
        console.print(f"→ {answer}", style="green", markup=False, soft_wrap=True)
    console.print()


def _print_table(results: list[CaseResult], console: Console) -> None:
    title = "Each kind of request over each protocol"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("case", max_width=15)
    table.add_column("call", no_wrap=True)
    table.add_column("answer or error,\nflags", min_width=MIN_ANSWER_CHARS, no_wrap=True)
    for heading in ("tokens\nin + out", "cost\nmicro $", "queue\nµs"):
        table.add_column(heading, justify="right", no_wrap=True)
    answer_chars = MAX_ANSWER_CHARS if console.width >= WIDE_CHARS else MIN_ANSWER_CHARS
    previous = ""
    for result in results:
        if previous and result.case != previous:
            table.add_section()
        table.add_row(*_cells(result, "" if result.case == previous else result.case, answer_chars))
        previous = result.case
    console.print(table)


def _cells(result: CaseResult, case: str, answer_chars: int) -> list[str]:
    sign = "[red]✘" if result.fault else "[green]✔"
    call = result.protocol.removeprefix("HTTP ").removesuffix(" SDK")  # so that the table fits 80 columns
    answer = result.answer if len(result.answer) <= answer_chars else result.answer[: answer_chars - 1] + "…"
    if result.cost_usd is None:
        return [sign, case, call, f"[yellow]{escape(answer)}", "", "", ""]
    lines = "\n".join([escape(answer), *(f"[magenta]{flag}[/]" for flag in result.flags)])
    tokens = f"{result.prompt_tokens} + {result.completion_tokens}"
    return [sign, case, call, lines, tokens, f"{result.cost_usd * 1e6:.1f}", str(result.queue_delay_us)]


def _print_summary(results: list[CaseResult], console: Console) -> None:
    faulty = [result for result in results if result.fault]
    for result in faulty:
        console.print(f"✘ {result.case} over {result.protocol}: {result.fault}", style="red", markup=False)
    if not faulty:
        console.print(f"[green]✔[/green] all {len(results)} replies are as expected")
