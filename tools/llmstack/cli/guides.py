"""`llmstack guides`: explain a guide, and measure how well guides work on a directory of schemas."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from llm_policy.errors import PolicyError
from llm_policy.release.release import Release
from llmstack.guides.bench import BASELINE, PLANNED, measure_schemas, schema_paths
from llmstack.guides.explain import explain_guide
from llmstack.guides.schema_result import summarise
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.tokenizer.qwen_vocabulary import build_tokenizer

app = typer.Typer(help="Explain and measure guides.", no_args_is_help=True)


class GuideType(str, Enum):
    """The guide types with a text."""

    json_schema = "json_schema"
    regex = "regex"
    ebnf_grammar = "ebnf_grammar"
    choice = "choice"


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="File with the guide; - reads standard input.", allow_dash=True)],
    kind: Annotated[GuideType, typer.Option("--type", help="Type of the guide.")] = GuideType.json_schema,
    release: Annotated[Path, typer.Option(help="Release whose tokenizer and limits apply.")] = DEFAULT_RELEASE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the grammar that the engine gets for a guide, the keywords it can't enforce, sizes and compile time.

    Exits with 1 if the guide is rejected. Example: llmstack guides explain order.json
    """
    console = Console()
    text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
    try:
        explanation = explain_guide(kind.value, text, Release.open(release))
    except PolicyError as error:
        console.print_json(data={"refused": str(error)}) if as_json else console.print(f"[red]rejected:[/] {error}")
        raise typer.Exit(1) from None
    if as_json:
        console.print_json(data=explanation)
    else:
        _print_explanation(console, explanation)


def _print_explanation(console: Console, explanation: dict[str, Any]) -> None:
    console.print(explanation["guide"], markup=False, highlight=False)
    sizes = f"{explanation['num_rules']} rules, {explanation['num_bytes']} bytes"
    console.print(f"[bold]{explanation['schema_id']}[/]: {sizes}, compiled in {explanation['compile_ms']} ms")
    for name, title in (("unenforced", "Not enforced by the grammar"), ("narrowed", "Narrower than the schema")):
        if not explanation[name]:
            continue
        table = Table("where", "keyword", "reason", title=title)
        for finding in explanation[name]:
            table.add_row(finding["pointer"] or "/", finding["keyword"], finding["reason"])
        console.print(table)


@app.command()
def bench(
    schemas: Annotated[Path, typer.Option(help="Directory of schemas with labelled instances, in MaskBench's format.")],
    tokenizer: Annotated[
        Path, typer.Option(help="Directory of the tokenizer.json; it is built there if it is missing.")
    ] = Path("build/qwen-tokenizer"),
    baseline: Annotated[bool, typer.Option("--baseline", help="Also measure XGrammar's own converter.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Also print the report as JSON.")] = False,
) -> None:
    """Plan and compile every schema of a directory for a real vocabulary, and check each of its instances.

    Example: llmstack guides bench --schemas path/to/maskbench/data --baseline
    """
    console = Console(stderr=as_json)
    paths = schema_paths(schemas)
    tokenizer_json = build_tokenizer(tokenizer)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    report: dict[str, Any] = {}
    for converter in (PLANNED, BASELINE) if baseline else (PLANNED,):
        results = measure_schemas(converter, paths, tokenizer_json)
        with Progress(*columns, console=console) as progress:
            measured = list(progress.track(results, total=len(paths), description=f"{converter:>8}"))
        report[converter] = summarise(measured)
    console.print(_bench_table(report))
    if as_json:
        others = {name: summary for name, summary in report.items() if name != PLANNED}
        print(orjson.dumps({**report[PLANNED], **others}).decode())


def _bench_table(report: dict[str, dict[str, Any]]) -> Table:
    """The report as a table with one column per converter."""
    table = Table(title="Guides")
    table.add_column("result")
    for converter in report:
        table.add_column(converter, justify="right")
    for name in next(iter(report.values())):
        if name not in ("details", "unenforced"):
            table.add_row(name, *(_cell(summary[name]) for summary in report.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {number}" for name, number in value.items()) or "-"
    return f"{100 * value:.2f} %" if isinstance(value, float) else str(value)
