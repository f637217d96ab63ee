"""The memory plan of an engine on its fullest GPU, with the arithmetic of `llmstack capacity`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from llm_policy.release.release import Release
from llmstack.capacity.memory_plan import KV_BYTES, CapacityError, KvShape, MemoryPlan, Parallelism
from llmstack.capacity.model_shapes import SHAPES

RESERVED_BYTES = 2 * 10**9
HEADROOM = Fraction(1, 4)
_KV_TYPES = {"FP8": "fp8", "INT8": "int8"}
_NO_OPTIONS: Mapping[str, str] = {}


def plan_memory(
    release: Release, gpu_bytes: int, parallelism: Parallelism | None = None, options: Mapping[str, str] = _NO_OPTIONS
) -> MemoryPlan | None:
    """How many of the largest requests fit beside the release's engine in `gpu_bytes` of a GPU's memory.

    `parallelism` and `options` are those of an engine that splits its model when it starts; by default the engine was
    split when it was built. None when the model's shape is unknown, or when such an engine has several ranks: each GPU
    then holds only a part of the engine and of the KV cache.

    Raises:
        CapacityError: the engine's config.json can't be read or is invalid.
    """
    engine = release.engine_path
    document = _read(engine / "config.json") if engine.is_dir() else {}
    config = document.get("pretrained_config", document) or SHAPES.get(release.manifest.engine.model, {})
    if not isinstance(config, dict) or not config or (parallelism is None and _num_ranks(config) > 1):
        return None
    split = parallelism or Parallelism()
    shape = KvShape.from_config({**config, "head_dim": config.get("head_dim") or config.get("head_size")})
    kv_type = "fp8" if options.get("kv_cache_dtype", "").startswith("fp8") else _kv_type(config)
    return MemoryPlan(
        gpu_bytes,
        split.share(sum(file.stat().st_size for file in [engine, *engine.rglob("*")] if file.is_file())),
        RESERVED_BYTES,
        shape.per_gpu(split).bytes_per_token(KV_BYTES[kv_type]),
        release.manifest.thresholds.max_tokens,
        release.manifest.engine.max_batch_size,
        HEADROOM,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CapacityError(f"{path} can't be read: {error}") from None
    if not isinstance(document, dict):
        raise CapacityError(f"{path} is not a JSON object")
    return document


def _num_ranks(config: Mapping[str, Any]) -> int:
    mapping = config.get("mapping")
    size = mapping.get("world_size") if isinstance(mapping, dict) else None
    return size if isinstance(size, int) else 1


def _kv_type(config: Mapping[str, Any]) -> str:
    quantization = config.get("quantization")
    algorithm = quantization.get("kv_cache_quant_algo") if isinstance(quantization, dict) else None
    return _KV_TYPES.get(str(algorithm), "bf16")
