"""`llmstack bench load`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tritonclient.grpc import InferenceServerClient

from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.load import LoadError, LoadMeasurement, measure
from llmstack.bench.machine import describe_machine
from llmstack.bench.overhead import prompt_of
from llmstack.cli.serve_options import EngineChoice
from llmstack.cli.server_start import give_up
from llmstack.cli.terminal import fail, print_json
from llmstack.client.ensemble_client import Inputs
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.server.release import open_release

_WARM_UPS = 4


class _Sizes(NamedTuple):
    prompt_tokens: int
    completion_tokens: int
    num_requests: int
    schema_id: str
    guided: tuple[bool, ...]


def load(
    release_dir: Annotated[Path, typer.Option("--release", help="The release that is measured.")] = DEFAULT_RELEASE_DIR,
    engine: EngineChoice = None,
    concurrency: Annotated[list[int], typer.Option(min=1, help="Requests at a time; repeat for more.")] = [1, 4, 8],  # noqa: B006
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt, about.")] = 512,
    completion_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of each completion.")] = 64,
    num_requests: Annotated[int, typer.Option("--requests", min=1, help="Requests a cell.")] = 32,
    schema_id: Annotated[str | None, typer.Option(help="The guided requests' schema [the first one].")] = None,
    guided_only: Annotated[bool, typer.Option("--guided-only", help="Leave out the unguided requests.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where rows, machine and sizes go as JSON, besides.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Load the whole stack through the ensemble, guided and unguided: tokens per second, waits, the policy's share.

    Example: llmstack bench load --concurrency 1 --concurrency 4 --requests 16
    """
    console = Console(stderr=True, highlight=False)
    try:
        release = open_release(release_dir)
        with TritonServer(release_dir=release.directory, engine=engine.value if engine else "embedded") as server:
            schema_id = schema_id or sorted(release.manifest.schemas)[0]
            guided = (True,) if guided_only else (False, True)
            sizes = _Sizes(prompt_tokens, completion_tokens, num_requests, schema_id, guided)
            rows = list(_measure(server, release, console, concurrency, sizes))
            record = _record(server, release, sizes) if output else {}
    except ServerStartError as error:
        give_up(error)
    except LoadError as error:
        fail(f"a request was not answered: {error}", "choose fewer tokens, or look into the release's thresholds")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        record["rows"] = [row._asdict() for row in rows]
        output.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        Console().print(_table(rows, sizes))


def _measure(
    server: TritonServer, release: Release, console: Console, concurrencies: list[int], sizes: _Sizes
) -> Iterator[LoadMeasurement]:
    engine = release.manifest.engine
    headers = {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}
    text, _ = prompt_of(Tokenizer.load(release.tokenizer_dir), sizes.prompt_tokens)
    cells = [(is_guided, concurrency) for is_guided in sizes.guided for concurrency in concurrencies]
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("warming up", total=len(cells) * sizes.num_requests)
        for is_guided in sizes.guided:
            measure(server, headers, _inputs(text, is_guided, sizes), is_guided, _WARM_UPS, _WARM_UPS, lambda: None)
        for is_guided, concurrency in cells:
            kind = "guided" if is_guided else "unguided"
            progress.update(bar, description=f"{kind}, {concurrency} at a time")
            inputs_of = _inputs(text, is_guided, sizes)
            num_requests = max(sizes.num_requests, concurrency)
            yield measure(
                server, headers, inputs_of, is_guided, concurrency, num_requests, lambda: progress.advance(bar)
            )


def _record(server: TritonServer, release: Release, sizes: _Sizes) -> dict[str, Any]:
    """What the rows were measured with, and on."""
    engine, limits = release.manifest.engine, release.manifest.guidance.limits
    with InferenceServerClient(server.grpc_url) as client:
        triton = client.get_server_metadata(as_json=True)["version"]
    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**describe_machine(), "triton": triton},
        "release": {
            "name": release.directory.name,
            "model": engine.model,
            "engine_hash": engine.hash,
            "max_batch_size": engine.max_batch_size,
            "max_counted_length": limits.max_counted_length,
        },
        "sizes": {"prompt_tokens": sizes.prompt_tokens, "completion_tokens": sizes.completion_tokens},
        "schema_id": sizes.schema_id,
    }


def _inputs(text: str, is_guided: bool, sizes: _Sizes) -> Callable[[int], Inputs]:
    """Greedy requests whose prompts differ from their first token on."""

    def inputs_of(number: int) -> Inputs:
        inputs = {"text_input": f"{number}. {text}", "max_tokens": sizes.completion_tokens, "temperature": 0.0}
        return {**inputs, "schema_id": sizes.schema_id} if is_guided else inputs

    return inputs_of


def _table(rows: list[LoadMeasurement], sizes: _Sizes) -> Table:
    title = f"Through the ensemble: prompts of {sizes.prompt_tokens} tokens, up to {sizes.completion_tokens} in return"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("at once", "tok/s", "tokens", "TTFT ms\np50", "\nmax", "queue µs\np50", "\nmax"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("latency\nms p50", "policy\nshare"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        values = (row.tokens_per_s, row.completion_tokens, row.ttft_ms_p50, row.ttft_ms_max)
        delays = (row.queue_delay_us_p50, row.queue_delay_us_max, row.latency_ms_p50)
        cells = [f"{value:.0f}" for value in (row.concurrency, *values, *delays)]
        table.add_row("guided" if row.guided else "unguided", *cells, f"{row.policy_share:.2%}")
    return table
