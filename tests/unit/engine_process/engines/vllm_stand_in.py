"""A stand-in for AsyncLLM with its signatures and the behaviour of vLLM 0.24, and the package's types around it.

Where vLLM is installed its own types are used, else types made from `vllm_shapes.json`, which `record_vllm.py` wrote.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import types
from collections import deque
from collections.abc import AsyncGenerator, Callable
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Union

from tests.unit.engine_process.engines.release_directory import EOS_ID

SHAPES: dict[str, Any] = json.loads((Path(__file__).parent / "vllm_shapes.json").read_text(encoding="utf-8"))
IS_REAL = find_spec("vllm") is not None
VOCAB_SIZE, MAX_MODEL_LEN = 100, 64
FIRST_STEP_S = 1_000.0


def argument_types() -> dict[str, Any]:
    """The recorded types of AsyncEngineArgs."""
    names = {"Literal": Literal, "Union": Union, "Enum": lambda name, members: Enum(name, members)}
    recorded = SHAPES["AsyncEngineArgs"]
    return {name: eval(text, {**names}) for name, text in recorded.items()}


@dataclasses.dataclass
class Script:
    """What the stand-in answers: tokens one a step, then `finish_reason`; or an exception instead of a step."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    finish_reason: str = "length"
    tokens_per_step: int = 1
    error: Exception | None = None
    never_ends: bool = False


class StandInLLM:
    """An AsyncLLM without a model. `scripts` are its next answers; without one it does what a guided model does."""

    instances: ClassVar[list[StandInLLM]] = []
    enforces_guides: ClassVar[bool] = True
    start_error: ClassVar[Exception | None] = None
    eos_token_id: ClassVar[int | None] = EOS_ID

    def __init__(self, engine_args: Any, stat_loggers: list[Callable[..., Any]]) -> None:
        self.engine_args = engine_args
        self.listeners = [factory(None, 0) for factory in stat_loggers]
        self.scripts: deque[Script] = deque()
        self.requests: list[tuple[Any, Any, str]] = []
        self.aborted: list[str] = []
        self.is_shut_down = False
        self.errored = False
        self.model_config = types.SimpleNamespace(max_model_len=MAX_MODEL_LEN, get_vocab_size=lambda: VOCAB_SIZE)

    @classmethod
    def from_engine_args(
        cls,
        engine_args: Any,
        start_engine_loop: bool = True,
        usage_context: Any = None,
        stat_loggers: list[Callable[..., Any]] | None = None,
    ) -> StandInLLM:
        asyncio.get_running_loop()
        if cls.start_error is not None:
            raise cls.start_error
        cls.instances.append(cls(engine_args, stat_loggers or []))
        return cls.instances[-1]

    def get_tokenizer(self) -> Any:
        return types.SimpleNamespace(eos_token_id=self.eos_token_id)

    def record_step(self) -> None:
        """What vLLM does after each step of its scheduler."""
        for listener in self.listeners:
            listener.record(None, None, mm_cache_stats=None, engine_idx=0)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, *, prompt_text: str | None = None, priority: int = 0
    ) -> AsyncGenerator[Any, None]:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        self.requests.append((prompt, sampling_params, request_id))
        script = self.scripts.popleft() if self.scripts else self._default(sampling_params)
        try:
            for output in _outputs(script, sampling_params, request_id):
                self.record_step()
                await asyncio.sleep(0)
                yield output
            if script.never_ends:
                await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        except (EngineDeadError, ValueError):
            raise
        except Exception as error:
            raise EngineGenerateError from error

    def _default(self, sampling_params: Any) -> Script:
        is_guided = sampling_params.structured_outputs is not None
        if is_guided and self.enforces_guides:
            return Script([15, EOS_ID], "stop")
        return Script(list(range(1, sampling_params.max_tokens + 1)))

    def shutdown(self, timeout: float | None = None) -> None:
        self.is_shut_down = True


def _outputs(script: Script, parameters: Any, request_id: str) -> Any:
    """One output for each step, as the kind DELTA gives them. The metrics are one object that goes on changing."""
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.metrics.stats import RequestStateStats

    stats = RequestStateStats(arrival_time=1.7e9, queued_ts=FIRST_STEP_S - 1, scheduled_ts=FIRST_STEP_S - 0.5)
    steps = [
        script.tokens[n : n + script.tokens_per_step] for n in range(0, len(script.tokens), script.tokens_per_step)
    ]
    for number, tokens in enumerate(steps):
        stats.first_token_ts = FIRST_STEP_S
        stats.last_token_ts = FIRST_STEP_S + number
        is_last = number == len(steps) - 1 and not script.never_ends and script.error is None
        log_probs = [{token: Logprob(-token / 10, 1, None)} for token in tokens]
        completion = CompletionOutput(
            index=0,
            text="",
            token_ids=tokens,
            cumulative_logprob=None,
            logprobs=log_probs if parameters.logprobs is not None else None,
            finish_reason=script.finish_reason if is_last else None,
        )
        yield RequestOutput(request_id, None, [0], None, [completion], is_last, metrics=stats)
    if script.error is not None:
        raise script.error


def install(monkeypatch: Any) -> type[StandInLLM]:
    """Put the stand-in where the adapter imports AsyncLLM from."""
    if not IS_REAL:
        for name, module in _package().items():
            monkeypatch.setitem(sys.modules, name, module)
    import vllm.v1.engine.async_llm

    monkeypatch.setattr(vllm.v1.engine.async_llm, "AsyncLLM", StandInLLM)
    monkeypatch.setattr(StandInLLM, "instances", [])
    return StandInLLM


def _package() -> dict[str, types.ModuleType]:
    """vLLM's modules that the adapter and the stand-in import, with types of the recorded shapes."""
    parts: dict[str, dict[str, Any]] = {
        "vllm": {"__version__": SHAPES["version"], "__path__": []},
        "vllm.engine": {"__path__": []},
        "vllm.v1": {"__path__": []},
        "vllm.v1.engine": {"__path__": []},
        "vllm.v1.metrics": {"__path__": []},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": _engine_args()},
        "vllm.logprobs": {"Logprob": _dataclass("Logprob")},
        "vllm.outputs": {"CompletionOutput": _dataclass("CompletionOutput"), "RequestOutput": _class("RequestOutput")},
        "vllm.sampling_params": {
            "RequestOutputKind": Enum("RequestOutputKind", SHAPES["RequestOutputKind"]),
            "SamplingParams": _sampling_params(),
            "StructuredOutputsParams": _dataclass("StructuredOutputsParams"),
        },
        "vllm.v1.engine.async_llm": {"AsyncLLM": None},
        "vllm.v1.engine.exceptions": {
            "EngineDeadError": type("EngineDeadError", (Exception,), {}),
            "EngineGenerateError": type("EngineGenerateError", (Exception,), {}),
        },
        "vllm.v1.metrics.loggers": {"StatLoggerBase": type("StatLoggerBase", (), {})},
        "vllm.v1.metrics.stats": {"RequestStateStats": _dataclass("RequestStateStats", default=0.0)},
    }
    modules = {name: types.ModuleType(name) for name in parts}
    for name, attributes in parts.items():
        vars(modules[name]).update(attributes)
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, modules[name])
    return modules


def _dataclass(name: str, default: Any = None) -> type:
    fields = [(field, Any, dataclasses.field(default=default)) for field in SHAPES[name]]
    return dataclasses.make_dataclass(name, fields)


def _engine_args() -> type:
    fields = [(name, annotation, dataclasses.field(default=None)) for name, annotation in argument_types().items()]
    return dataclasses.make_dataclass("AsyncEngineArgs", fields)


def _class(name: str) -> type:
    """A class whose constructor takes the recorded parameters in their order."""
    fields = [field for field in SHAPES[name] if field != "kwargs"]
    return dataclasses.make_dataclass(name, [(field, Any, dataclasses.field(default=None)) for field in fields])


def _sampling_params() -> type:
    made = _dataclass("SamplingParams")
    made.__struct_fields__ = tuple(SHAPES["SamplingParams"])  # type: ignore[attr-defined]
    return made
