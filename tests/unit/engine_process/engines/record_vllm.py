"""Records what the vLLM adapter uses of vLLM, for the stand-in that tests use where vLLM is not installed.

    PYTHONPATH=python_models python tests/unit/engine_process/engines/record_vllm.py

in an environment with vLLM (no GPU is needed). It writes vllm_shapes.json beside this file.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import types
import typing
from pathlib import Path
from typing import Any

from engine_process.engines.vllm_options import ALLOWED, FIXED

SHAPES = Path(__file__).parent / "vllm_shapes.json"


def main() -> None:
    """Write the file."""
    import vllm
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
    from vllm.v1.engine import FINISH_REASON_STRINGS
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase
    from vllm.v1.metrics.stats import RequestStateStats
    from vllm.v1.worker.gpu.sample.bad_words import MAX_BAD_WORDS_TOTAL_TOKENS, MAX_NUM_BAD_WORDS

    arguments = {field.name: field.type for field in dataclasses.fields(AsyncEngineArgs)}
    shapes = {
        "version": vllm.__version__,
        "AsyncEngineArgs": {name: _expression(arguments[name]) for name in [*ALLOWED, *FIXED] if name in arguments},
        "SamplingParams": list(SamplingParams.__struct_fields__),
        "StructuredOutputsParams": [field.name for field in dataclasses.fields(StructuredOutputsParams)],
        "RequestOutputKind": [member.name for member in RequestOutputKind],
        "RequestOutput": _parameters(RequestOutput.__init__),
        "CompletionOutput": [field.name for field in dataclasses.fields(CompletionOutput)],
        "Logprob": [field.name for field in dataclasses.fields(Logprob)],
        "RequestStateStats": [field.name for field in dataclasses.fields(RequestStateStats)],
        "finish_reasons": list(FINISH_REASON_STRINGS),
        "AsyncLLM.from_engine_args": _parameters(AsyncLLM.from_engine_args),
        "AsyncLLM.generate": _parameters(AsyncLLM.generate),
        "AsyncLLM.get_tokenizer is async": inspect.iscoroutinefunction(AsyncLLM.get_tokenizer),
        "AsyncLLM.shutdown": _parameters(AsyncLLM.shutdown),
        "AsyncLLM.errored is a property": isinstance(AsyncLLM.errored, property),
        "StatLoggerBase": sorted(StatLoggerBase.__abstractmethods__),
        "limits of bad words": [MAX_NUM_BAD_WORDS, MAX_BAD_WORDS_TOTAL_TOKENS],
    }
    SHAPES.write_text(json.dumps(shapes, indent=1) + "\n", encoding="utf-8")


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _expression(annotation: Any) -> str:
    """The annotation as an expression with builtin types, Literal and Enum; `object` for any other type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "None"
    if annotation in (bool, int, float, str):
        return str(annotation.__name__)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return f"Enum({annotation.__name__!r}, {list(annotation.__members__)!r})"
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return f"Union[{', '.join(map(_expression, arguments))}]"
    if origin is list:
        return f"list[{_expression(arguments[0])}]"
    return "object"


if __name__ == "__main__":
    main()
