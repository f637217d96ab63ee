"""`llmstack guides`: what becomes of a guide, and how well guides hold over a directory of schemas."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from llm_policy.errors import Code, PolicyError
from llm_policy.release.guide_limits import GuideLimits
from llm_policy.release.release import Release
from llmstack.paths import DEFAULT_RELEASE_DIR

app = typer.Typer(help="Look at guides and measure them.", no_args_is_help=True)


class Kind(str, Enum):
    """The guide types that a client may send."""

    json_schema = "json_schema"
    regex = "regex"
    ebnf_grammar = "ebnf_grammar"
    choice = "choice"


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="The guide's file; - reads standard input.", allow_dash=True)],
    kind: Annotated[Kind, typer.Option("--type", help="What the file holds.")] = Kind.json_schema,
    release: Annotated[Path, typer.Option(help="Whose tokenizer and limits count.")] = DEFAULT_RELEASE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show what the engine gets for a guide, what it can't enforce, sizes and compile time.

    Exits with 1 when the guide would be refused. Example: llmstack guides explain order.json
    """
    console = Console()
    text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
    try:
        found = explanation(kind.value, text, Release.open(release))
    except PolicyError as refusal:
        console.print_json(data={"refused": str(refusal)}) if as_json else console.print(f"[red]refused:[/] {refusal}")
        raise typer.Exit(1) from None
    if as_json:
        console.print_json(data=found)
    else:
        _print(console, found)


def explanation(kind: str, text: str, release: Release) -> dict[str, object]:
    """The planned guide of `text` and all that is known of it.

    Raises:
        PolicyError: the guide would be refused.
    """
    # XGrammar takes seconds to import, and only this command needs it.
    from llm_policy.guidance.compile.worker import PLANNERS, GuideWorker, schema_id

    limits: GuideLimits = release.manifest.guidance.limits
    planned = PLANNERS[kind](text, limits)
    compiled = GuideWorker(release.tokenizer_info_path, limits).report(kind, text)
    if compiled.code:
        raise _refusal(compiled.code, compiled.detail)
    return {
        "schema_id": schema_id(kind, planned.canonical),
        "guide_type": planned.guide_type,
        "guide": planned.guide,
        "num_rules": planned.num_rules,
        "num_bytes": planned.num_bytes,
        "compile_ms": round(compiled.compile_ms, 3),
        "unenforced": [{"pointer": f.pointer, "keyword": f.keyword, "reason": f.reason} for f in planned.unenforced],
        "narrowed": [{"pointer": f.pointer, "keyword": f.keyword, "reason": f.reason} for f in planned.narrowed],
    }


def _refusal(code: str, detail: str) -> PolicyError:
    return PolicyError(Code(code), detail)


def _print(console: Console, found: dict[str, object]) -> None:
    console.print(found["guide"], markup=False, highlight=False)
    sizes = f"{found['num_rules']} rules, {found['num_bytes']} bytes, compiled in {found['compile_ms']} ms"
    console.print(f"[bold]{found['schema_id']}[/]: {sizes}")
    for name, title in (("unenforced", "Not enforced by the grammar"), ("narrowed", "Narrower than the schema")):
        findings = found[name]
        if not isinstance(findings, list) or not findings:
            continue
        table = Table("where", "keyword", "why", title=title)
        for finding in findings:
            table.add_row(finding["pointer"] or "/", finding["keyword"], finding["reason"])
        console.print(table)


@app.command("bench")
def bench(
    schemas: Annotated[Path, typer.Option(help="Schemas with judged instances, in MaskBench's format.")],
    tokenizer: Annotated[Path, typer.Option(help="Where a tokenizer.json is, or is to be made.")] = Path(
        "build/qwen-tokenizer"
    ),
    baseline: Annotated[bool, typer.Option("--baseline", help="Measure XGrammar's own conversion too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON as well.")] = False,
) -> None:
    """Plan and compile every schema of a directory for a real vocabulary, and ask it about each instance.

    Example: llmstack guides bench --schemas path/to/maskbench/data --baseline
    """
    from llmstack.guides.bench import run_bench

    report = run_bench(schemas, tokenizer, baseline, console=Console(stderr=as_json))
    if as_json:
        print(orjson.dumps({**report["planned"], **{k: v for k, v in report.items() if k != "planned"}}).decode())
