"""`llmstack bench gate`: the proof that a release with a large batch keeps its queue delay."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.load import LoadError, LoadMeasurement, measure
from llmstack.bench.overhead import prompt_of
from llmstack.cli.release.faults import described
from llmstack.cli.serve_options import EngineChoice, ReleaseDir
from llmstack.cli.server_start import give_up
from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.client.ensemble_client import Inputs
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.checks.target import check_engine
from llmstack.release.evidence import BENCH_GATE, write_evidence
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.server.release import open_release, pick_engine


def gate(
    max_batch_size: Annotated[int, typer.Option(min=1, help="The batch size of the release's manifest.")],
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: EngineChoice = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt, about.")] = 512,
    completion_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of each completion.")] = 64,
    num_requests: Annotated[int, typer.Option("--requests", min=100, help="Requests; a percentile needs many.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Keep a whole batch of requests under way and write bench_gate.json into the release.

    It has passed when the 99th percentile of the queue delay stays within the manifest's max_queue_delay_us: what a
    promotion asks of a batch size above 4. An engine with fewer slots than its manifest says lets requests wait, and
    fails. With one request more than slots each waits for another's end, whatever the engine: that is measured, too,
    and recorded beside. Exits with 0 when it has passed, else with 1.

    Example: llmstack bench gate --max-batch-size 8 --release artifacts/releases/qwen3-32b-b8
    """
    began_s = time.time()
    try:
        release = open_release(release_dir)
        size = release.manifest.engine.max_batch_size
        if size != max_batch_size:
            fail(
                f"the manifest of {release.directory.name} has engine.max_batch_size {size}, not {max_batch_size}",
                f"give --max-batch-size {size}, or build a manifest with {max_batch_size}",
            )
        picked = check_engine(engine.value if engine else pick_engine(release))
        with TritonServer(release_dir=release.directory, engine=picked) as server:
            row, beyond = _measure(server, release, prompt_tokens, completion_tokens, num_requests)
        limit_us = release.manifest.thresholds.max_queue_delay_us
        delay_us = row.queue_delay_us_p99 or 0.0  # there is one: at least 100 requests
        passed = delay_us <= limit_us
        record = {"max_batch_size": size, "max_queue_delay_us": limit_us, "engine": picked, **row._asdict()}
        record |= {"one_more": beyond._asdict()}
        path = write_evidence(release, BENCH_GATE, passed=passed, began_s=began_s, record=record)
    except ServerStartError as error:
        give_up(error)
    except LoadError as error:
        fail(f"a request was not answered: {error}", "choose fewer tokens, or look into the release's thresholds")
    except OSError as error:
        fail(described(error), "make the release directory writable")
    if as_json:
        print_json({"passed": passed, **record})
    else:
        verdict = "[green]✔ passed[/]" if passed else "[red]✘ failed[/]"
        text = f"queue delay {delay_us:.0f} µs (p99) of {limit_us} µs at {size} at once, "
        text += f"{beyond.queue_delay_us_p99 or 0.0:.0f} µs at {size + 1}: {path}"
        Console(soft_wrap=True, highlight=False).print(f"{verdict}: {text}")
    raise typer.Exit(0 if passed else DIFFERENT)


def _measure(
    server: TritonServer, release: Release, prompt_tokens: int, completion_tokens: int, num_requests: int
) -> tuple[LoadMeasurement, LoadMeasurement]:
    """With as many requests under way as the engine has slots, and with one more."""
    engine = release.manifest.engine
    headers = {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}
    text, _ = prompt_of(Tokenizer.load(release.tokenizer_dir), prompt_tokens)
    size = engine.max_batch_size

    def inputs_of(number: int) -> Inputs:
        """Prompts differ from their first token on."""
        return {"text_input": f"{number}. {text}", "max_tokens": completion_tokens, "temperature": 0.0}

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{size} and {size + 1} at a time", total=2 * num_requests)
        measure(server, headers, inputs_of, False, size, size, lambda: None)
        row, beyond = (
            measure(server, headers, inputs_of, False, at_once, num_requests, lambda: progress.advance(bar))
            for at_once in (size, size + 1)
        )
        return row, beyond
