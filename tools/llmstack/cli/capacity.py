"""`llmstack capacity`: does the batch fit?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmstack.capacity.memory_plan import KV_BYTES, CapacityError, KvShape, MemoryPlan, parse_size
from llmstack.capacity.model_shapes import SHAPES
from llmstack.cli.terminal import DIFFERENT, fail, print_json

_GIB = 2**30


def capacity(
    gpu_memory: Annotated[str, typer.Option(help="The GPU's memory: 32GB is 32 × 10^9 bytes, 32GiB 32 × 2^30.")],
    engine_bytes: Annotated[str, typer.Option(help="What the engine takes of it, its weights above all.")],
    model: Annotated[str, typer.Option(help=f"{', '.join(SHAPES)}, or a model's config.json.")] = "Qwen3-32B",
    max_batch_size: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Prompt and completion of the largest request.")] = 6_000,
    headroom: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of the free memory to leave.")] = 0.25,
    kv_type: Annotated[str, typer.Option(help=f"Type of keys and values: {', '.join(KV_BYTES)}.")] = "bf16",
    reserve: Annotated[
        str, typer.Option(help="For activations, CUDA's context and what else runs there; 0 counts none of it.")
    ] = "2GB",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how many of the largest requests fit beside the engine, and whether a whole batch does.

    Exits with 0 when it does and with 1 when it doesn't. An engine built with an fp8 cache keeps half: --kv-type fp8.

    Example: llmstack capacity --gpu-memory 32GB --engine-bytes 18GB --model Qwen3-32B
    """
    try:
        if kv_type not in KV_BYTES:
            raise CapacityError(f"--kv-type {kv_type} is not one of {', '.join(KV_BYTES)}")
        shape = KvShape.of(_config(model))
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
        fail(error, "llmstack capacity --help shows what each option takes")
    if as_json:
        print_json(_document(plan, shape, kv_type))
    else:
        _print(Console(highlight=False), plan, shape, kv_type, model)
    if not plan.holds:
        raise typer.Exit(DIFFERENT)


def _config(model: str) -> Mapping[str, Any]:
    if model in SHAPES:
        return SHAPES[model]
    try:
        config = json.loads(Path(model).read_bytes())
    except (OSError, ValueError):
        raise CapacityError(f"--model {model} is neither {', '.join(SHAPES)} nor a config.json") from None
    if not isinstance(config, dict):
        raise CapacityError(f"{model} holds no JSON object")
    return config


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
        "holds": plan.holds,
    }


def _print(console: Console, plan: MemoryPlan, shape: KvShape, kv_type: str, model: str) -> None:
    table = Table(title=f"{model}: {plan.max_batch_size} requests of {plan.tokens_per_request:,} tokens", box=None)
    table.add_column("")
    table.add_column("bytes", justify="right")
    table.add_column("GiB", justify="right")
    table.add_column("from", overflow="fold")
    number_bytes = KV_BYTES[kv_type]
    of_token = " × ".join(
        (
            "2",
            f"{shape.num_layers} layers",
            f"{shape.num_kv_heads} key heads",
            f"{shape.head_dim}",
            f"{number_bytes} bytes",
        )
    )
    left = f"{plan.free_bytes:,} × {1 - float(plan.headroom):g}"
    rows = (
        ("GPU", plan.gpu_bytes, ""),
        ("− engine", plan.engine_bytes, ""),
        ("− reserve", plan.reserved_bytes, "activations, CUDA's context"),
        ("= free", plan.free_bytes, ""),
        ("usable", plan.usable_bytes, left),
        ("a token", plan.bytes_per_token, of_token),
        ("a request", plan.bytes_per_request, f"{plan.tokens_per_request:,} tokens"),
    )
    for name, size, source in rows:
        table.add_row(name, f"{size:,}", f"{size / _GIB:.2f}", source)
    console.print(table)
    verdict = "fits" if plan.holds else "does not fit"
    console.print(
        f"{plan.num_requests} requests fit with {float(plan.headroom):.0%} headroom: a batch of {plan.max_batch_size} "
        f"{verdict}, and leaves {plan.actual_headroom:.0%} of the free memory",
        style="green" if plan.holds else "red",
    )
