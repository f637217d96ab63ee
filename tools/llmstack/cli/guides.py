"""`llmstack guides`: explain a guide, and measure how well guides work on a directory of schemas."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from llm_policy.errors import PolicyError
from llm_policy.guidance.backends.names import BACKENDS, ENVIRONMENT_VARIABLE, UnavailableBackend, usable_backends
from llmstack.cli.command_group import CommandGroup
from llmstack.cli.terminal import fail
from llmstack.guides.converter_names import converter_names
from llmstack.paths import DEFAULT_RELEASE_DIR

if TYPE_CHECKING:
    from llm_policy.release.release import Release

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Explain and measure guides.\n\nExample: llmstack guides explain order.json",
)


class GuideType(str, Enum):
    """The guide types with a text."""

    json_schema = "json_schema"
    regex = "regex"
    ebnf_grammar = "ebnf_grammar"
    choice = "choice"


class Backend(str, Enum):
    """The structured-output backends."""

    xgrammar = "xgrammar"
    llguidance = "llguidance"


class BackendChoice(str, Enum):
    """The values of `guidance.backend`."""

    auto = "auto"
    xgrammar = "xgrammar"
    llguidance = "llguidance"


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="File with the guide; - reads standard input.", allow_dash=True)],
    kind: Annotated[GuideType, typer.Option("--type", help="Type of the guide.")] = GuideType.json_schema,
    release: Annotated[Path, typer.Option(help="Release whose tokenizer and limits apply.")] = DEFAULT_RELEASE_DIR,
    backend: Annotated[
        BackendChoice | None,
        typer.Option(
            help="Structured-output backend; by default the release's guidance.backend. auto takes the better one that "
            f"the engine has: {ENVIRONMENT_VARIABLE} names the engine's, and without it both count as available.",
            show_default=False,
        ),
    ] = None,
    grammar: Annotated[bool, typer.Option("--grammar", help="Print what the engine gets, last.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a guide is taken, by which backend, and what of it is not enforced or is narrower than written.

    Sizes, compile time and the time of token masks follow. Exits with 1 if the guide is rejected.

    Example: llmstack guides explain order.json --backend xgrammar
    """
    from llm_policy.release.release import Release
    from llmstack.guides.explain import explain_guide

    console = Console()
    text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
    opened = Release.open(release)
    try:
        explanation = explain_guide(kind.value, text, opened, _usable_backends(opened, backend))
    except PolicyError as error:
        console.print_json(data={"refused": str(error)}) if as_json else console.print(f"[red]rejected:[/] {error}")
        raise typer.Exit(1) from None
    if as_json:
        console.print_json(data=explanation)
    else:
        _print_explanation(console, explanation, with_grammar=grammar)


def _usable_backends(release: Release, backend: BackendChoice | None) -> tuple[str, ...]:
    wanted = backend.value if backend else release.manifest.guidance.backend
    try:
        return usable_backends(wanted, {ENVIRONMENT_VARIABLE: ",".join(BACKENDS), **os.environ})
    except UnavailableBackend as error:
        fail(error, f"choose another --backend, or unset {ENVIRONMENT_VARIABLE}")


def _print_explanation(console: Console, explanation: dict[str, Any], *, with_grammar: bool) -> None:
    console.print(explanation["summary"], style="bold", markup=False, highlight=False)
    engine = f"{explanation['backend']} ({explanation['guide_type']})"
    sizes = f"{explanation['num_rules']} rules, {explanation['num_bytes']} bytes"
    times = f"compiled in {explanation['compile_ms']} ms, token masks up to {explanation['mask_ms']} ms"
    console.print(f"[bold]{explanation['schema_id']}[/] for {engine}: {sizes}, {times}")
    for name, title in (("unenforced", "Not enforced by the grammar"), ("narrowed", "Narrower than the schema")):
        if not explanation[name]:
            continue
        table = Table("where", "keyword", "reason", title=title)
        for finding in explanation[name]:
            table.add_row(finding["pointer"] or "/", finding["keyword"], finding["reason"])
        console.print(table)
    if with_grammar:
        console.print(explanation["guide"], markup=False, highlight=False)


@app.command()
def bench(
    schemas: Annotated[Path, typer.Option(help="Directory of schemas with labelled instances, in MaskBench's format.")],
    tokenizer: Annotated[
        Path, typer.Option(help="Directory of the tokenizer.json; it is built there if it is missing.")
    ] = Path("build/qwen-tokenizer"),
    backend: Annotated[
        Backend | None, typer.Option(help="Measure only this structured-output backend.", show_default=False)
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also measure the libraries' own converters, without the policy.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Also print the report as JSON.")] = False,
) -> None:
    """Plan and compile every schema of a directory for a real vocabulary, and check each of its instances.

    Each backend gets the first plan that the policy would accept from a client. Token masks are measured at every token
    of every valid instance. Times are processor time of one thread.

    Example: llmstack guides bench --schemas path/to/maskbench/data --baseline
    """
    import orjson

    from llmstack.guides.bench import measure_schemas, schema_paths
    from llmstack.guides.schema_result import summarise
    from llmstack.tokenizer.qwen_vocabulary import build_tokenizer

    console = Console(stderr=as_json)
    paths = schema_paths(schemas)
    tokenizer_json = build_tokenizer(tokenizer)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    report: dict[str, Any] = {}
    for name in converter_names(backend.value if backend else None, with_baseline=baseline):
        results = measure_schemas(name, paths, tokenizer_json)
        with Progress(*columns, console=console, transient=True) as progress:
            measured = list(progress.track(results, total=len(paths), description=name))
        report[name] = summarise(measured)
        _print_summary(console, name, report[name])
    if as_json:
        print(orjson.dumps(report).decode())


def _print_summary(console: Console, name: str, summary: dict[str, Any]) -> None:
    refused = ", ".join(f"{number} {code}" for code, number in summary["refused"].items())
    accepted = f"{summary['accepted']} of {summary['schemas']} schemas accepted"
    console.print(f"[bold]{name}[/]: {accepted}" + (f" ({refused})" if refused else ""), highlight=False)
    table = Table()
    table.add_column("")
    for heading in ("p50", "p90", "p99", "max"):
        table.add_column(heading, justify="right")
    for row, ranks in summary.items():
        if isinstance(ranks, dict) and list(ranks) == ["p50", "p90", "p99", "max"] and any(ranks.values()):
            table.add_row(row, *(f"{value:.2f}" if row.endswith("_ms") else f"{value:.0f}" for value in ranks.values()))
    console.print(table)
    rates = {
        "invalid instances that the grammar accepts": ("false_accept_rate", "num_invalid"),
        "valid instances that it rejects": ("false_reject_rate_all", "num_valid"),
        "those in the schema's order, without undeclared properties": ("false_reject_rate", "num_valid_in_order"),
    }
    for title, (rate, total) in rates.items():
        console.print(f"{title}: {summary[rate]:.2%} of {summary[total]}", highlight=False)
    errors = summary["valid_flag_errors"], summary["invalid_flag_errors"]
    console.print(f"instances wrongly judged valid: {errors[0]}, invalid: {errors[1]}", highlight=False)
    console.print(f"schemas with keywords that are not enforced: {summary['unenforced_schemas']}\n", highlight=False)
