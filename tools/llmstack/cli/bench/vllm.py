"""`llmstack bench vllm`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmstack.bench.plans import PARTS
from llmstack.cli.bench.options import CompletionTokens, MeasuredRelease, PromptTokens
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import fail
from llmstack.server.error import ServerStartError

Part = Enum("Part", {name: name for name in PARTS}, type=str)  # type: ignore[misc]
_VLLM = "vllm"


def vllm(
    release_dir: MeasuredRelease,
    output: Annotated[Path, typer.Option(help="JSON file for the results; an existing one is continued.")],
    part: Annotated[
        list[Part] | None,
        typer.Option(
            help="Only this part; repeatable. stack: the rows, by ensemble. stream: the rows, by ensemble_stream. "
            "kill: kill -9 of preprocess under load. alone: vLLM by itself, with the same rows. "
            "restart: the seconds of another start.",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        list[str], typer.Option(metavar="CLIENTS:REQUESTS", help="A row of the measurement; repeatable.")
    ] = ["1:24", "4:100", "16:160", "64:320"],  # noqa: B006
    engine: Annotated[str, typer.Option(help="The stack's engine. Only vllm has the part alone.")] = _VLLM,
    engine_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the engine; repeatable.")
    ] = None,
    state_dir: Annotated[
        Path, typer.Option(help="For the stack's state and the logs; all starts use the same.")
    ] = Path("build/bench-vllm"),
    prompt_tokens: PromptTokens = 512,
    completion_tokens: CompletionTokens = 64,
    schema_id: Annotated[str, typer.Option(help="Schema of the guided requests.")] = "invoice",
    start_timeout_s: Annotated[float, typer.Option("--start-timeout-secs", min=1, help="For each start.")] = 500.0,
) -> None:
    """Measure the stack on vLLM beside vLLM alone: the same requests to both, unguided and guided.

    Also measures the starts, and how long clients wait after kill -9 of preprocess. Each result is printed and written
    at once. Streams alone are compared by --part stream --part alone.

    Example: llmstack bench vllm --release build/w4a8 --engine-option load_format=dummy --output build/vllm.json
    """
    from llmstack.bench.comparison_plan import ComparisonPlan, plan_rows
    from llmstack.bench.comparison_run import ComparisonRun
    from llmstack.bench.load import LoadError
    from llmstack.bench.vllm_comparison import AloneError, ComparisonRecord
    from llmstack.server.release import open_release, parse_engine_options

    parts = (
        [chosen.value for chosen in part] if part else [name for name in PARTS if engine == _VLLM or name != "alone"]
    )
    plan = ComparisonPlan(plan_rows([_row(text) for text in row]), prompt_tokens, completion_tokens, schema_id)
    try:
        options = parse_engine_options(engine_option or ())
        release = open_release(release_dir)
        record = ComparisonRecord(output, _print_result)
        ComparisonRun(release, plan, record, engine, options, state_dir, start_timeout_s).measure(parts)
    except ServerStartError as error:
        exit_with_error(error)
    except (LoadError, AloneError) as error:
        fail(error, f"read the logs in {state_dir}")


def _row(text: str) -> tuple[int, int]:
    clients, _, requests = text.partition(":")
    if not (clients.isdigit() and requests.isdigit() and int(requests) >= int(clients) >= 1):
        fail(f"--row {text}: not CLIENTS:REQUESTS, with a request for each client", "write --row 4:100")
    return int(clients), int(requests)


def _print_result(result: dict[str, Any]) -> None:
    for name, value in result.items():
        typer.echo(f"{name}: {value}")
