"""vLLM behind the protocol: its AsyncLLM, which batches, caches prefixes and runs on several GPUs by itself.

The model runs in processes of vLLM's own. vLLM is imported by `load`, so that this module can be imported without it.
Written against vLLM 0.24; `load` checks what it uses that is not public.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator
from typing import Any

from engine_process.engine import Clocks, EngineDied, EngineFailure, EngineLoadError, EngineSettings, Step
from engine_process.engines.guide_proof import check_eos_token, prove_guides
from engine_process.engines.guide_types import GUIDE_TYPES, check_guide, release_guide_backend, release_stop_token_ids
from engine_process.engines.request_limits import check_request, rejected
from engine_process.engines.sigterm import sigterm_exits
from engine_process.engines.vllm_options import engine_arguments, set_environment
from engine_process.engines.vllm_sampling import BAD_SEQUENCES_FIELD, guide_arguments, sampling_arguments
from engine_process.messages import Capabilities, Generate

_NS = 1_000_000_000


class VllmEngine:
    """One AsyncLLM.

    vLLM ends at `end_id` and at `max_tokens`, not at stop sequences of several tokens. It serves requests in the order
    of their arrival, whoever sent them.
    """

    handles_sequences = False
    schedules_tenants = False

    async def load(self, settings: EngineSettings) -> Capabilities:
        """Start vLLM on the release and send it one guided request.

        It takes minutes, in which the loop stands still: vLLM's sockets belong to the loop that they are made on.

        Raises:
            EngineLoadError: an option is wrong, vLLM can't be used or does not start, or it does not end guided
                completions with a stop token of the release.
        """
        set_environment()
        self._backend = release_guide_backend(settings.release)
        stop_token_ids = release_stop_token_ids(settings.release)
        self._vllm = _Vllm()
        self._last_step_ns = time.monotonic_ns()
        arguments = engine_arguments(settings, self._backend, self._vllm.AsyncEngineArgs)
        self._llm = self._start(arguments)
        self._request_numbers = itertools.count()
        self._capabilities = self._read_capabilities(settings)
        self._eos_id = self._llm.get_tokenizer().eos_token_id
        await check_eos_token(self, self._eos_id, stop_token_ids)
        # The first guide makes vLLM read the vocabulary for its backend, which would hold up all requests for seconds.
        await prove_guides(self, self._backend, self._eos_id)
        return self._capabilities

    def _start(self, arguments: dict[str, Any]) -> Any:
        try:
            with sigterm_exits():
                return self._vllm.AsyncLLM.from_engine_args(
                    self._vllm.AsyncEngineArgs(**arguments),
                    stat_loggers=[self._vllm.step_listener(self._on_step)],
                )
        except Exception as error:  # vLLM has no common base of its errors
            raise EngineLoadError(f"vLLM does not start: {type(error).__name__}: {error}") from error

    def _on_step(self) -> None:
        self._last_step_ns = time.monotonic_ns()

    def _read_capabilities(self, settings: EngineSettings) -> Capabilities:
        model = self._llm.model_config
        return Capabilities(
            settings.max_batch_size,
            int(model.max_model_len),
            int(model.get_vocab_size()),
            list(GUIDE_TYPES[self._backend]),
        )

    async def generate(self, request: Generate, arrival_ns: int) -> AsyncGenerator[Step, None]:
        """One step for each output of vLLM, which has the tokens since the one before."""
        prompt = check_request(request, self._capabilities)
        parameters = self._parameters(request)
        request_id = f"{request.id}-{next(self._request_numbers)}"
        outputs = self._llm.generate({"prompt_token_ids": prompt}, parameters, request_id)
        try:
            async with contextlib.aclosing(outputs):  # closing it before its end aborts the request
                async for output in outputs:
                    self._on_step()
                    yield _step(request, output)
        except self._vllm.EngineDeadError as error:
            raise EngineDied(str(error)) from None
        except ValueError:  # its text may quote the request
            raise rejected(request, "vLLM") from None
        except self._vllm.EngineGenerateError as error:
            if self._llm.errored:
                raise EngineDied(f"{type(error.__cause__).__name__}: {error.__cause__}") from None
            raise EngineFailure("internal", "vLLM failed the request") from None

    def _parameters(self, request: Generate) -> Any:
        guide = None
        if request.guide is not None:
            check_guide(request.guide, self._backend, request.end_id, self._eos_id)
            guide = self._vllm.StructuredOutputsParams(**guide_arguments(request.guide))
        arguments = sampling_arguments(request)
        try:
            return self._vllm.SamplingParams(
                **arguments, output_kind=self._vllm.RequestOutputKind.DELTA, structured_outputs=guide
            )
        except ValueError:
            raise EngineFailure("invalid_input", "vLLM rejects the sampling parameters") from None

    def last_step_ns(self) -> int:
        """When vLLM's scheduler last reported a step; one that prefills a part of a prompt counts too."""
        return self._last_step_ns

    async def close(self) -> None:
        """Stop vLLM's processes."""
        await asyncio.to_thread(self._llm.shutdown)


class _Vllm:
    """What is used of the package.

    Raises:
        EngineLoadError: the package is missing, or this version lacks something.
    """

    def __init__(self) -> None:
        try:
            from vllm import __version__
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
            from vllm.v1.engine.async_llm import AsyncLLM
            from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
            from vllm.v1.metrics.loggers import StatLoggerBase
        except ImportError as error:
            raise EngineLoadError(f"vLLM can't be imported: {error}") from error
        if BAD_SEQUENCES_FIELD not in SamplingParams.__struct_fields__:
            raise EngineLoadError(f"vLLM {__version__} has no field SamplingParams.{BAD_SEQUENCES_FIELD} for bad words")
        self.AsyncEngineArgs, self.AsyncLLM = AsyncEngineArgs, AsyncLLM
        self.SamplingParams, self.RequestOutputKind = SamplingParams, RequestOutputKind
        self.StructuredOutputsParams = StructuredOutputsParams
        self.EngineDeadError, self.EngineGenerateError = EngineDeadError, EngineGenerateError
        self._StatLoggerBase = StatLoggerBase

    def step_listener(self, on_step: Any) -> Any:
        """A factory of a statistics logger that calls `on_step` for each step of the scheduler."""

        class StepListener(self._StatLoggerBase):  # type: ignore[name-defined,misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(self, *_: Any, **__: Any) -> None:
                on_step()

            def log_engine_initialized(self) -> None:
                pass

        return lambda vllm_config, engine_index=0: StepListener(vllm_config, engine_index)


def _step(request: Generate, output: Any) -> Step:
    completion = output.outputs[0]
    token_ids = list(completion.token_ids)
    reason = completion.finish_reason
    if reason not in (None, "stop", "length"):
        raise _ended_by_error(request, reason)
    log_probs = None
    if request.log_probs:
        log_probs = _log_probs(token_ids, completion.logprobs or [])
    return Step(token_ids, log_probs, _clocks(output.metrics), reason)


def _log_probs(token_ids: list[int], positions: Any) -> list[float]:
    """The log-probabilities of the chosen tokens; `positions` has the likeliest tokens of each position."""
    if len(positions) < len(token_ids):
        raise EngineFailure("internal", "vLLM returned fewer log-probabilities than tokens")
    first = len(positions) - len(token_ids)
    return [float(positions[first + number][token_id].logprob) for number, token_id in enumerate(token_ids)]


def _ended_by_error(request: Generate, reason: str) -> EngineFailure:
    if request.guide is not None and request.bad_sequences:
        return EngineFailure("invalid_input", "the guide and the bad words together allow no further token")
    return EngineFailure("internal", f"vLLM ended the request with the reason {reason}")


def _clocks(metrics: Any) -> Clocks:
    """vLLM's times are seconds of the monotonic clock, 0 where the request has not been."""
    times = (metrics.scheduled_ts, metrics.first_token_ts, metrics.last_token_ts)
    return Clocks(*(int(time_s * _NS) for time_s in times))
