"""`llmstack capacity`."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmstack.capacity.memory_plan import KV_BYTES, CapacityError, KvShape, MemoryPlan, parse_size
from llmstack.capacity.model_shapes import SHAPES, read_config
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json

_GIB = 2**30


def capacity(
    gpu_memory: Annotated[str, typer.Option(help="The GPU's memory: 32GB is 32 × 10^9 bytes, 32GiB 32 × 2^30.")],
    engine_bytes: Annotated[str, typer.Option(help="The engine's share of it, mainly weights.")],
    model: Annotated[str, typer.Option(help=f"{', '.join(SHAPES)}, or the path of a config.json.")] = "Qwen3-32B",
    max_batch_size: Annotated[int, typer.Option(min=1, help="Number of concurrent requests.")] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Prompt and completion tokens of the largest request.")] = 6_000,
    headroom: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of the free memory to leave.")] = 0.25,
    kv_type: Annotated[str, typer.Option(help=f"Data type of keys and values: {', '.join(KV_BYTES)}.")] = "bf16",
    reserve: Annotated[
        str, typer.Option(help="Memory for activations, the CUDA context and other processes; may be 0.")
    ] = "2GB",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compute how many requests of the largest size fit beside the engine, and whether a whole batch does.

    Exits with 0 if it does, else with 1. For an engine built with an fp8 cache give --kv-type fp8, which halves the
    memory per token.

    Example: llmstack capacity --gpu-memory 32GB --engine-bytes 18GB --model Qwen3-32B
    """
    try:
        if kv_type not in KV_BYTES:
            raise CapacityError(f"--kv-type {kv_type} is not one of {', '.join(KV_BYTES)}")
        shape = KvShape.from_config(read_config(model))
        plan = MemoryPlan(
            parse_size(gpu_memory),
            parse_size(engine_bytes),
            parse_size(reserve),
            shape.bytes_per_token(KV_BYTES[kv_type]),
            tokens,
            max_batch_size,
            Fraction(str(headroom)),
        )
    except CapacityError as error:
        fail(error, "llmstack capacity --help describes each option")
    if as_json:
        print_json(_document(plan, shape, kv_type))
    else:
        console = Console(highlight=False)
        console.print(_table(plan, shape, kv_type, model))
        console.print(_summary(plan), style="green" if plan.batch_fits else "red")
    if not plan.batch_fits:
        raise typer.Exit(EXIT_FAILED)


def _document(plan: MemoryPlan, shape: KvShape, kv_type: str) -> dict[str, Any]:
    return {
        **shape._asdict(),
        "kv_type": kv_type,
        **plan._asdict(),
        "headroom": float(plan.headroom),
        "free_bytes": plan.free_bytes,
        "bytes_per_request": plan.bytes_per_request,
        "num_requests": plan.num_requests,
        "actual_headroom": round(plan.actual_headroom, 4),
        "holds": plan.batch_fits,
    }


def _table(plan: MemoryPlan, shape: KvShape, kv_type: str, model: str) -> Table:
    table = Table(title=f"{model}: {plan.max_batch_size} requests of {plan.tokens_per_request:,} tokens", box=None)
    table.add_column("")
    table.add_column("bytes", justify="right")
    table.add_column("GiB", justify="right")
    table.add_column("calculation", overflow="fold")
    per_token = (
        f"2 × {shape.num_layers} layers × {shape.num_kv_heads} key heads × {shape.head_dim} × {KV_BYTES[kv_type]} bytes"
    )
    rows = (
        ("GPU", plan.gpu_bytes, ""),
        ("− engine", plan.engine_bytes, ""),
        ("− reserve", plan.reserved_bytes, "activations, CUDA context"),
        ("= free", plan.free_bytes, ""),
        ("usable", plan.usable_bytes, f"{plan.free_bytes:,} × {1 - float(plan.headroom):g}"),
        ("per token", plan.bytes_per_token, per_token),
        ("per request", plan.bytes_per_request, f"{plan.tokens_per_request:,} tokens"),
    )
    for name, size, calculation in rows:
        table.add_row(name, f"{size:,}", f"{size / _GIB:.2f}", calculation)
    return table


def _summary(plan: MemoryPlan) -> str:
    fits = "fits" if plan.batch_fits else "does not fit"
    return (
        f"{plan.num_requests} requests fit with {float(plan.headroom):.0%} headroom: a batch of {plan.max_batch_size} "
        f"{fits}, and leaves {plan.actual_headroom:.0%} of the free memory"
    )
