"""A stand-in for TensorRT-LLM's LLM API, which does not install without NVIDIA's image.

Signatures and behaviour are those of the published source of TensorRT-LLM 1.2: `SamplingParams` (sampling_params.py),
`RequestOutput` (executor/result.py), `LLM` (llmapi/llm.py), and the arguments' types (llmapi/llm_args.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import types
from collections import deque
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

from engine_process.engine import EngineSettings
from tests.unit.engine_process.engines.release_directory import EOS_ID, write_release

VOCAB_SIZE, MAX_POSITION = 100, 64
FIRST_STEP_US = 1_000_000_000


class RequestError(RuntimeError):
    """One request fails."""


class SamplerType(str, Enum):
    TRTLLMSampler = "TRTLLMSampler"
    TorchSampler = "TorchSampler"
    auto = "auto"


@dataclasses.dataclass(kw_only=True)
class GuidedDecodingParams:
    json: Any = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool = False
    structural_tag: str | None = None


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    bad: str | list[str] | None = None
    bad_token_ids: list[int] | None = None
    _bad_word_ids: list[list[int]] | None = dataclasses.field(default=None, init=False, repr=False)
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    return_perf_metrics: bool = False
    guided_decoding: GuidedDecodingParams | None = None
    detokenize: bool = True
    add_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.top_p is not None and not 0.0 <= self.top_p <= 1.0:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")

    def _get_bad_words(self) -> list[list[int]]:
        words = [[token_id] for token_id in self.bad_token_ids or []]
        if self.bad is None:
            return words
        if self._bad_word_ids is None:
            raise RuntimeError(f"{self.bad=} is not processed by tokenizer, please call the setup method")
        return words + self._bad_word_ids


def _model(name: str, fields: dict[str, Any]) -> type:
    """A class with pydantic's `model_fields`."""
    made = dataclasses.make_dataclass(
        name, [(field, kind, dataclasses.field(default=None)) for field, kind in fields.items()]
    )
    made.model_fields = {field: types.SimpleNamespace(annotation=kind) for field, kind in fields.items()}  # type: ignore[attr-defined]
    return made


KvCacheConfig = _model(
    "KvCacheConfig",
    {
        "enable_block_reuse": bool,
        "max_tokens": int | None,
        "free_gpu_memory_fraction": float | None,
        "host_cache_size": int | None,
        "dtype": str,
    },
)
TorchLlmArgs = _model(
    "TorchLlmArgs",
    {
        "model": str | Path,
        "tokenizer": object,
        "skip_tokenizer_init": bool,
        "trust_remote_code": bool,
        "tensor_parallel_size": int,
        "pipeline_parallel_size": int,
        "moe_expert_parallel_size": int | None,
        "gpus_per_node": int | None,
        "dtype": str,
        "max_batch_size": int | None,
        "max_seq_len": int | None,
        "max_num_tokens": int | None,
        "enable_chunked_prefill": bool,
        "guided_decoding_backend": Literal["xgrammar", "llguidance"] | None,
        "kv_cache_config": KvCacheConfig,
        "return_perf_metrics": bool,
        "attn_backend": str,
        "sampler_type": str | SamplerType,
        "disable_overlap_scheduler": bool,
        "load_format": str,
        "stream_interval": int,
        "speculative_config": object,
        "enable_lora": bool,
        "lora_config": object,
        "batched_logits_processor": object,
        "backend": str,
    },
)


@dataclasses.dataclass
class Script:
    """What the stand-in answers: tokens one a response, then `finish_reason`; or an exception instead of a response."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    finish_reason: str = "length"
    error: Exception | None = None
    never_ends: bool = False


class RequestOutput:
    """A request's output. It yields itself after each response, with the tokens so far."""

    def __init__(self, script: Script, parameters: SamplingParams, llm: StandInLLM) -> None:
        self._script, self._parameters, self._llm = script, parameters, llm
        self._pending = deque(script.tokens)
        self._num_responses = 0
        self.finished = self.is_aborted = False
        completion = types.SimpleNamespace(token_ids=[], logprobs=[], finish_reason=None, request_perf_metrics=None)
        self.outputs = [completion]

    def abort(self) -> None:
        self.is_aborted = True

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        await asyncio.sleep(0)
        if self.finished:
            raise StopAsyncIteration
        if not self._pending:
            if self._script.error is not None:
                self.finished = True
                raise self._script.error
            await asyncio.Event().wait()
        self._add(self._pending.popleft())
        return self

    def _add(self, token_id: int) -> None:
        completion = self.outputs[0]
        completion.token_ids.append(token_id)
        if self._parameters.logprobs is not None:
            completion.logprobs.append({token_id: types.SimpleNamespace(logprob=-token_id / 10, rank=1)})
        self._num_responses += 1
        if not self._pending and self._script.error is None and not self._script.never_ends:
            self.finished = True
            completion.finish_reason = self._script.finish_reason
            completion.request_perf_metrics = self._metrics()  # comes with the last response

    def _metrics(self) -> Any:
        if not self._llm.returns_metrics:
            return None
        times = {
            "first_scheduled_time": FIRST_STEP_US - 500,
            "first_token_time": FIRST_STEP_US,
            "last_token_time": FIRST_STEP_US + self._num_responses - 1,
        }
        timing = types.SimpleNamespace(**{name: timedelta(microseconds=time_us) for name, time_us in times.items()})
        return types.SimpleNamespace(timing_metrics=timing)


class StandInLLM:
    """An LLM without a model. `scripts` are its next answers; without one it does what a guided model does."""

    instances: ClassVar[list[StandInLLM]] = []
    dropped: ClassVar[tuple[str, ...]] = ()  # arguments that it ignores without a word
    returns_metrics: ClassVar[bool] = True
    start_error: ClassVar[Exception | None] = None
    eos_token_id: ClassVar[int | None] = EOS_ID

    def __init__(self, model: str, tokenizer: Any = None, **kwargs: Any) -> None:
        if self.start_error is not None:
            raise self.start_error
        taken = {name: None if name in self.dropped else value for name, value in kwargs.items()}
        self.args = TorchLlmArgs(model=model, tokenizer=tokenizer, **taken)
        self.args.sampler_type = taken["sampler_type"] and SamplerType(taken["sampler_type"])
        self.tokenizer = types.SimpleNamespace(eos_token_id=self.eos_token_id)
        self.scripts: deque[Script] = deque()
        self.requests: list[tuple[Any, SamplingParams]] = []
        self.results: list[RequestOutput] = []
        self.is_shut_down = False
        StandInLLM.instances.append(self)

    def generate_async(
        self, inputs: Any, sampling_params: SamplingParams | None = None, streaming: bool = False
    ) -> RequestOutput:
        assert sampling_params is not None
        if self.is_shut_down:
            raise RuntimeError("LLM is shutting down")
        self.requests.append((inputs, sampling_params))
        script = self.scripts.popleft() if self.scripts else self._default(sampling_params)
        self.results.append(RequestOutput(script, sampling_params, self))
        return self.results[-1]

    def _default(self, parameters: SamplingParams) -> Script:
        if parameters.guided_decoding is not None:
            return Script([15, EOS_ID], "stop")
        return Script(list(range(1, parameters.max_tokens + 1)))

    def shutdown(self) -> None:
        self.is_shut_down = True


def install(monkeypatch: Any) -> None:
    """Put the stand-in where the adapter imports the package from."""
    package, llmapi, llm_args = map(
        types.ModuleType, ("tensorrt_llm", "tensorrt_llm.llmapi", "tensorrt_llm.llmapi.llm_args")
    )
    names = {"LLM": StandInLLM, "RequestError": RequestError, "KvCacheConfig": KvCacheConfig}
    vars(llmapi).update(names, SamplingParams=SamplingParams, GuidedDecodingParams=GuidedDecodingParams)
    vars(llm_args).update(TorchLlmArgs=TorchLlmArgs)
    for module in (package, llmapi, llm_args):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(StandInLLM, "instances", [])


def write_trtllm_release(directory: Path, backend: str = "auto", **settings: Any) -> EngineSettings:
    """The settings for a release whose engine directory has a model's config.json."""
    made = write_release(directory, backend, **settings)
    config = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": MAX_POSITION}
    (directory / "engine" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return made
