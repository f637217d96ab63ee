"""`llmstack demo`: every kind of request over every protocol, on a server of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from llm_policy.release.release import Release
from llmstack.cli.server_start import give_up, start_visibly
from llmstack.cli.terminal import print_json
from llmstack.client.ensemble_client import PROTOCOLS, Reply
from llmstack.demo.case import QUESTIONS, Case, demo_cases
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.server.release import open_release

# What is shown of an answer, in a narrow and in a wide terminal; a refusal's code always fits.
MIN_ANSWER_CHARS, MAX_ANSWER_CHARS, WIDE_CHARS = 22, 64, 130
FAULTY = 1


class CaseResult(NamedTuple):
    """One request and what came of it; `fault` is empty when that is what should."""

    protocol: str
    case: str
    answer: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    queue_delay_us: int | None
    flags: list[str]
    fault: str


def demo(
    release_dir: Annotated[
        Path, typer.Option("--release", envvar="LLMSTACK_RELEASE_DIR", help="The release to show.")
    ] = DEFAULT_RELEASE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Start the server with the embedded engine and send it every kind of request.

    Each task and each way to be refused, over HTTP /infer, HTTP /generate and gRPC. Exits with 0 when every row is what
    it should be, else with 1. The embedded model was trained for these three tasks: its answers must be right.
    """
    console = Console(stderr=as_json, highlight=False)
    try:
        release = open_release(release_dir)
        rows = _run(release, console)
    except ServerStartError as error:
        give_up(error)
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        _print_answers(rows, console)
        _print(rows, console)
    if any(row.fault for row in rows):
        raise typer.Exit(FAULTY)


def send_all(server: TritonServer, release: Release, console: Console) -> list[CaseResult]:
    """Send every case over every protocol, and show how far it is."""
    calls = [(protocol, case) for case in demo_cases(release) for protocol in PROTOCOLS]
    return [
        _row(protocol, case, PROTOCOLS[protocol](server, case.inputs, case.headers))
        for protocol, case in track(calls, "sending", console=console, transient=True)
    ]


def _run(release: Release, console: Console) -> list[CaseResult]:
    server = TritonServer(release_dir=release.directory, engine="embedded")
    try:
        server.start()
        start_visibly(server, console)
        return send_all(server, release, console)
    finally:
        server.stop()


def _row(protocol: str, case: Case, reply: Reply) -> CaseResult:
    return CaseResult(
        protocol=protocol,
        case=case.name,
        answer=reply.error.removeprefix("in ensemble 'ensemble', ") or str(reply.first("text_output")),
        prompt_tokens=reply.first("num_input_tokens"),
        completion_tokens=reply.first("num_output_tokens"),
        cost_usd=reply.first("cost_usd"),
        queue_delay_us=reply.first("queue_delay_us"),
        flags=[flag for flag in reply.outputs.get("flags", []) if flag],
        fault=case.fault_of(reply),
    )


def _print_answers(rows: list[CaseResult], console: Console) -> None:
    """What each task was asked and what came back, whole."""
    for question in QUESTIONS:
        answer = next(row.answer for row in rows if row.case == question.task)
        console.print(f"\n[bold]{question.task}[/]")
        console.print(question.user, markup=False, soft_wrap=True)
        console.print(f"→ {answer}", style="green", markup=False, soft_wrap=True)
    console.print()


def _print(rows: list[CaseResult], console: Console) -> None:
    table = Table(title="Every kind of request over every protocol", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("case", max_width=15)
    table.add_column("call")
    table.add_column("answer or refusal,\nflags", min_width=MIN_ANSWER_CHARS)
    for heading in ("tokens\nin + out", "cost\nmicro $", "queue\nµs"):
        table.add_column(heading, justify="right", no_wrap=True)
    answer_chars = MAX_ANSWER_CHARS if console.width >= WIDE_CHARS else MIN_ANSWER_CHARS
    before = ""
    for row in rows:
        if before and row.case != before:
            table.add_section()
        table.add_row(*_cells(row, "" if row.case == before else row.case, answer_chars))
        before = row.case
    console.print(table)
    _print_verdict(rows, console)


def _cells(row: CaseResult, case: str, answer_chars: int) -> list[str]:
    sign = "[red]✘" if row.fault else "[green]✔"
    answer = row.answer if len(row.answer) <= answer_chars else row.answer[: answer_chars - 1] + "…"
    if row.cost_usd is None:
        return [sign, case, _call(row), f"[yellow]{escape(answer)}", "", "", ""]
    lines = "\n".join([escape(answer), *(f"[magenta]{flag}[/]" for flag in row.flags)])
    tokens, cost = f"{row.prompt_tokens} + {row.completion_tokens}", f"{row.cost_usd * 1e6:.1f}"
    return [sign, case, _call(row), lines, tokens, cost, str(row.queue_delay_us)]


def _call(row: CaseResult) -> str:
    return row.protocol.removeprefix("HTTP ")  # so that the table fits 80 columns


def _print_verdict(rows: list[CaseResult], console: Console) -> None:
    faulty = [row for row in rows if row.fault]
    for row in faulty:
        console.print(f"✘ {row.case} over {row.protocol}: {row.fault}", style="red", markup=False)
    if not faulty:
        console.print(f"[green]✔[/green] all {len(rows)} replies are what they should be")
