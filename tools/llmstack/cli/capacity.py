"""`llmstack capacity`."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmstack.capacity.memory_plan import KV_BYTES, CapacityError, KvShape, MemoryPlan, Parallelism, parse_size
from llmstack.capacity.model_shapes import SHAPES, read_config
from llmstack.capacity.weights import FORMATS, weight_share
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json

_GIB = 2**30


def capacity(
    gpu_memory: Annotated[str, typer.Option(help="One GPU's memory: 32GB is 32 × 10^9 bytes, 32GiB 32 × 2^30.")],
    engine_bytes: Annotated[
        str | None,
        typer.Option(help="The whole engine's size, mainly weights; several GPUs share it.", show_default=False),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help=f"In place of --engine-bytes: the format of the linear layers, {', '.join(FORMATS)}.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help=f"{', '.join(SHAPES)}, or a config.json, or a directory with one.")
    ] = "Qwen3-32B",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share each layer.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(min=1, help="Groups of GPUs that share the layers.")] = 1,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Number of concurrent requests.")] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Prompt and completion tokens of the largest request.")] = 6_000,
    headroom: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of the free memory to leave.")] = 0.25,
    kv_type: Annotated[str, typer.Option(help=f"Data type of keys and values: {', '.join(KV_BYTES)}.")] = "bf16",
    reserve: Annotated[
        str, typer.Option(help="Memory for activations, the CUDA context and other processes of a GPU; may be 0.")
    ] = "2GB",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compute how many requests of the largest size fit beside the engine, and whether a whole batch does.

    Exits with 0 if it does, else with 1. For an engine built with an fp8 cache give --kv-type fp8, which halves the
    memory per token. With several GPUs the plan is that of the fullest one.

    Example: llmstack capacity --gpu-memory 141GB --weights w4a8 --tensor-parallel 2 --max-batch-size 64
    """
    parallelism = Parallelism(tensor_parallel, pipeline_parallel)
    try:
        if kv_type not in KV_BYTES:
            raise CapacityError(f"--kv-type {kv_type} is not one of {', '.join(KV_BYTES)}")
        config = read_config(model)
        shape = KvShape.from_config(config)
        parallelism.check(config)
        engine, calculation = _engine_share(config, engine_bytes, weights, parallelism)
        plan = MemoryPlan(
            parse_size(gpu_memory),
            engine,
            parse_size(reserve),
            shape.per_gpu(parallelism).bytes_per_token(KV_BYTES[kv_type]),
            tokens,
            max_batch_size,
            Fraction(str(headroom)),
        )
    except CapacityError as error:
        fail(error, "llmstack capacity --help describes each option")
    if as_json:
        print_json(_document(plan, shape, parallelism, kv_type, weights))
    else:
        console = Console(highlight=False)
        console.print(_table(plan, shape.per_gpu(parallelism), parallelism, kv_type, model, calculation))
        console.print(_summary(plan), style="green" if plan.batch_fits else "red")
    if not plan.batch_fits:
        raise typer.Exit(EXIT_FAILED)


def _engine_share(
    config: Mapping[str, Any], engine_bytes: str | None, weights: str | None, parallelism: Parallelism
) -> tuple[int, str]:
    """Bytes of the engine on one GPU, and how they come about."""
    if engine_bytes is not None and weights is None:
        share = f"{engine_bytes} ÷ {parallelism.num_gpus} GPUs" if parallelism.num_gpus > 1 else ""
        return parallelism.share(parse_size(engine_bytes)), share
    if weights is None or engine_bytes is not None:
        raise CapacityError("give either --engine-bytes or --weights")
    if weights not in FORMATS:
        raise CapacityError(f"--weights {weights} is not one of {', '.join(FORMATS)}")
    found = weight_share(config, FORMATS[weights], parallelism)
    linear, embeddings = (f"{size / _GIB:.2f} GiB" for size in found)
    return found.total_bytes, f"linear layers {linear} ({FORMATS[weights].meaning}), embeddings {embeddings} (bf16)"


def _document(
    plan: MemoryPlan, shape: KvShape, parallelism: Parallelism, kv_type: str, weights: str | None
) -> dict[str, Any]:
    """All bytes are those of one GPU."""
    share = shape.per_gpu(parallelism)
    return {
        **shape._asdict(),
        "tensor_parallel": parallelism.tensor,
        "pipeline_parallel": parallelism.pipeline,
        "num_gpus": parallelism.num_gpus,
        "layers_per_gpu": share.num_layers,
        "kv_heads_per_gpu": share.num_kv_heads,
        "weights": weights,
        "kv_type": kv_type,
        **plan._asdict(),
        "headroom": float(plan.headroom),
        "free_bytes": plan.free_bytes,
        "bytes_per_request": plan.bytes_per_request,
        "num_requests": plan.num_requests,
        "actual_headroom": round(plan.actual_headroom, 4),
        "holds": plan.batch_fits,
    }


def _table(
    plan: MemoryPlan, share: KvShape, parallelism: Parallelism, kv_type: str, model: str, engine_calculation: str
) -> Table:
    title = f"{model}: {plan.max_batch_size} requests of {plan.tokens_per_request:,} tokens"
    if parallelism.num_gpus > 1:
        title += f", each of {parallelism.num_gpus} GPUs"
    table = Table(title=title, box=None)
    table.add_column("")
    table.add_column("bytes", justify="right")
    table.add_column("GiB", justify="right")
    table.add_column("calculation", overflow="fold")
    per_token = (
        f"2 × {share.num_layers} layers × {share.num_kv_heads} key heads × {share.head_dim} × {KV_BYTES[kv_type]} bytes"
    )
    rows = (
        ("GPU", plan.gpu_bytes, ""),
        ("− engine", plan.engine_bytes, engine_calculation),
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
