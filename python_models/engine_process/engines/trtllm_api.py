"""TensorRT-LLM's LLM API (its PyTorch engine) behind the protocol.

Written against the published source of TensorRT-LLM 1.2 and tested with a stand-in for it: **it has never run against
the real package**, which does not install without NVIDIA's image. `load` therefore checks everything that TensorRT-LLM
would drop silently, and proves with a request that guides are enforced and that the clocks arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from importlib import import_module
from typing import Any

from engine_process.engine import Clocks, EngineDied, EngineFailure, EngineLoadError, EngineSettings, Step
from engine_process.engines.guide_proof import check_eos_token, prove_guides
from engine_process.engines.guide_types import GUIDE_TYPES, check_guide, release_guide_backend, release_stop_token_ids
from engine_process.engines.request_limits import check_request, rejected
from engine_process.engines.sigterm import sigterm_exits
from engine_process.engines.trtllm_options import engine_arguments, field_types, read_model_size, set_environment
from engine_process.engines.trtllm_sampling import (
    BAD_SEQUENCES_FIELD,
    guide_arguments,
    sampling_arguments,
    set_bad_sequences,
)
from engine_process.messages import Capabilities, Generate

_NS_PER_US = 1_000


class TrtllmApiEngine:
    """One `LLM`.

    It ends at `end_id` and at `max_tokens`, not at stop sequences, and serves requests in the order of their arrival.
    """

    handles_sequences = False
    schedules_tenants = False

    async def load(self, settings: EngineSettings) -> Capabilities:
        """Start the LLM on the release and send it one guided request.

        It takes minutes, in which the loop stands still.

        Raises:
            EngineLoadError: an option is wrong, TensorRT-LLM can't be used or does not start, or it would not do what
                requests ask for.
        """
        set_environment()
        self._backend = release_guide_backend(settings.release)
        stop_token_ids = release_stop_token_ids(settings.release)
        vocab_size, max_position = read_model_size(settings.engine_dir)
        self._package = _Package()
        self._last_step_ns = time.monotonic_ns()
        arguments = engine_arguments(
            settings, self._backend, max_position, self._package.argument_types, self._package.KvCacheConfig
        )
        self._sampler = str(arguments["sampler_type"])
        self._llm = self._start(arguments)
        await self._check_arguments(arguments)
        self._capabilities = Capabilities(
            settings.max_batch_size, int(arguments["max_seq_len"]), vocab_size, list(GUIDE_TYPES[self._backend])
        )
        self._eos_id = self._llm.tokenizer.eos_token_id
        await check_eos_token(self, self._eos_id, stop_token_ids)
        last = await prove_guides(self, self._backend, self._eos_id)
        if last.clocks is None or not all(last.clocks):
            await self.close()
            raise EngineLoadError("TensorRT-LLM does not return the request's clocks (request_perf_metrics)")
        return self._capabilities

    def _start(self, arguments: dict[str, Any]) -> Any:
        try:
            with sigterm_exits():
                return self._package.LLM(**arguments)
        except Exception as error:  # it has no common base of its errors
            raise EngineLoadError(f"TensorRT-LLM does not start: {type(error).__name__}: {error}") from error

    async def _check_arguments(self, arguments: dict[str, Any]) -> None:
        """Check that the LLM took them. Without its backend it would answer guided requests without the guide."""
        for name in ("guided_decoding_backend", "sampler_type", "return_perf_metrics"):
            taken = getattr(self._llm.args, name, None)
            if getattr(taken, "value", taken) != arguments[name]:
                await self.close()
                raise EngineLoadError(f"TensorRT-LLM was asked for {name} {arguments[name]} and has {taken}")

    async def generate(self, request: Generate, arrival_ns: int) -> AsyncGenerator[Step, None]:
        """One step for each response of the LLM."""
        prompt = check_request(request, self._capabilities)
        parameters = self._parameters(request)
        num_taken = 0
        async with contextlib.aclosing(self._outputs(request, prompt, parameters)) as outputs:
            async for output in outputs:
                step = _step(request, output, num_taken)
                num_taken += len(step.token_ids)
                yield step

    async def _outputs(self, request: Generate, prompt: list[int], parameters: Any) -> AsyncGenerator[Any, None]:
        """The request's output after each response; it is one object, which grows. Closing it aborts the request."""
        result: Any = None
        try:
            result = self._llm.generate_async(prompt, sampling_params=parameters, streaming=True)
            async for response in result:
                self._last_step_ns = time.monotonic_ns()
                yield response.outputs[0]
        except (self._package.RequestError, ValueError):  # their texts may quote the request
            raise rejected(request, "TensorRT-LLM") from None
        except Exception as error:  # the executor has shut down after any other error
            raise EngineDied(f"{type(error).__name__}: {error}") from None
        finally:
            if result is not None and not result.finished:
                result.abort()

    def _parameters(self, request: Generate) -> Any:
        guide = None
        if request.guide is not None:
            check_guide(request.guide, self._backend, request.end_id, self._eos_id)
            guide = self._package.GuidedDecodingParams(**guide_arguments(request.guide))
        arguments = sampling_arguments(request, self._sampler)
        try:
            parameters = self._package.SamplingParams(**arguments, guided_decoding=guide)
        except ValueError:
            raise EngineFailure("invalid_input", "TensorRT-LLM rejects the sampling parameters") from None
        set_bad_sequences(parameters, request.bad_sequences)
        return parameters

    def last_step_ns(self) -> int:
        """When the LLM last answered any request; it does not report steps that prefill a part of a prompt."""
        return self._last_step_ns

    async def close(self) -> None:
        """Stop the LLM's processes."""
        await asyncio.to_thread(self._llm.shutdown)


class _Package:
    """What is used of the package.

    Raises:
        EngineLoadError: the package is missing, or this version lacks something.
    """

    def __init__(self) -> None:
        try:
            llmapi = import_module("tensorrt_llm.llmapi")
            arguments = import_module("tensorrt_llm.llmapi.llm_args").TorchLlmArgs
            self.LLM, self.RequestError = llmapi.LLM, llmapi.RequestError
            self.KvCacheConfig = llmapi.KvCacheConfig
            self.SamplingParams, self.GuidedDecodingParams = llmapi.SamplingParams, llmapi.GuidedDecodingParams
        except (ImportError, AttributeError) as error:
            raise EngineLoadError(f"TensorRT-LLM can't be imported: {error}") from error
        self.argument_types = field_types(arguments)
        self._check_bad_sequences()

    def _check_bad_sequences(self) -> None:
        sequences = [[1], [2, 3]]
        try:
            parameters = self.SamplingParams(end_id=0, pad_id=0)
            set_bad_sequences(parameters, sequences)
            handed_on = parameters._get_bad_words()
        except (AttributeError, TypeError) as error:
            raise EngineLoadError(f"this TensorRT-LLM has no {BAD_SEQUENCES_FIELD} for bad words: {error}") from error
        if handed_on != sequences:
            raise EngineLoadError("this TensorRT-LLM does not hand on sequences of bad tokens")


def _step(request: Generate, output: Any, num_taken: int) -> Step:
    """What `output`, which grows, has beyond its first `num_taken` tokens."""
    token_ids = list(output.token_ids[num_taken:])
    reason = output.finish_reason
    if reason not in (None, "stop", "length"):
        raise EngineFailure("internal", f"TensorRT-LLM ended the request with the reason {reason}")
    log_probs = _log_probs(token_ids, output.logprobs[num_taken:]) if request.log_probs else None
    return Step(token_ids, log_probs, _clocks(output.request_perf_metrics), reason)


def _log_probs(token_ids: list[int], positions: list[Any]) -> list[float]:
    """The log-probabilities of the chosen tokens. A position has one number, or the likeliest tokens'."""
    if len(positions) < len(token_ids):
        raise EngineFailure("internal", "TensorRT-LLM returned fewer log-probabilities than tokens")
    return [
        float(position if isinstance(position, float) else position[token_id].logprob)
        for token_id, position in zip(token_ids, positions, strict=False)
    ]


def _clocks(metrics: Any) -> Clocks | None:
    """Its times are durations since the start of the steady clock, which is Linux's monotonic clock; 0 if unknown."""
    if metrics is None:
        return None
    timing = metrics.timing_metrics
    times = (timing.first_scheduled_time, timing.first_token_time, timing.last_token_time)
    return Clocks(*(time // timedelta(microseconds=1) * _NS_PER_US for time in times))
