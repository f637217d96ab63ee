"""The portable engine behind the protocol: PyTorch, for any Hugging Face causal language model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Literal

import msgspec
import torch

from engine_process.engine import Clocks, EngineFailure, EngineLoadError, EngineSettings, Step
from engine_process.messages import Capabilities, Generate
from portable_engine.batcher import InFlightBatcher
from portable_engine.engine_loop import EngineLoop
from portable_engine.failure import Failure
from portable_engine.grammar import GrammarEngine
from portable_engine.guide_types import GUIDE_TYPES
from portable_engine.loader import load_model
from portable_engine.sequence import FinishReason, GenerationRequest, SamplingParams, Sequence

_Inbox = asyncio.Queue["Step | Failure"]


class PortableEngine:
    """Decodes on a thread of its own; a second one compiles guides."""

    handles_sequences = True
    schedules_tenants = True

    async def load(self, settings: EngineSettings) -> Capabilities:
        """Load the model in the release's `engine` directory.

        Raises:
            EngineLoadError: there is no model that it can load, or an option is given.
        """
        if settings.options:
            raise EngineLoadError(f"the portable engine has no options, given: {', '.join(sorted(settings.options))}")
        self._mailbox = _Mailbox(asyncio.get_running_loop())
        try:
            return await asyncio.to_thread(self._load, settings)
        except (OSError, ValueError) as error:
            raise EngineLoadError(str(error)) from error

    def _load(self, settings: EngineSettings) -> Capabilities:
        model = load_model(settings.engine_dir)
        vocab_size = int(model.config.vocab_size)
        self._grammars = GrammarEngine(settings.release / "tokenizer_info.json", vocab_size, settings.max_mask_ms)
        torch.set_grad_enabled(False)
        batcher = InFlightBatcher(model, settings.max_batch_size, self._grammars.mask_logits)
        self._loop = EngineLoop(batcher, self._grammars, _log, self._mailbox.deliver)
        max_model_len = int(model.config.max_position_embeddings)
        return Capabilities(settings.max_batch_size, max_model_len, vocab_size, list(GUIDE_TYPES))

    async def generate(self, request: Generate, arrival_ns: int) -> AsyncGenerator[Step, None]:
        """One step for each step of the decode loop."""
        inbox: _Inbox = asyncio.Queue()
        responder = _Responder(self._mailbox, inbox)
        job = self._loop.submit(_generation_request(request), responder, request.tenant, arrival_ns)
        try:
            while True:
                step = await inbox.get()
                if isinstance(step, Failure):
                    raise EngineFailure(step.code, step.detail)
                yield step
                if step.finish_reason:
                    return
        finally:
            self._loop.cancel(job)

    def last_step_ns(self) -> int:
        """When the decode loop last ended a step."""
        return self._loop.last_step_ns

    async def close(self) -> None:
        """Stop the threads."""
        await asyncio.to_thread(self._loop.close)
        self._grammars.close()


class _Mailbox:
    """Carries steps from the decode loop's thread to the asyncio loop, which is woken once for each step of the engine.

    All but `_put` is called on the decode loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: list[tuple[_Inbox, Step | Failure]] = []

    def add(self, inbox: _Inbox, step: Step | Failure) -> None:
        """Keep a step until `deliver`."""
        self._pending.append((inbox, step))

    def deliver(self) -> None:
        """Put what is kept into its inboxes."""
        if self._pending:
            pending, self._pending = self._pending, []
            self._loop.call_soon_threadsafe(self._put, pending)

    @staticmethod
    def _put(steps: list[tuple[_Inbox, Step | Failure]]) -> None:
        for inbox, step in steps:
            inbox.put_nowait(step)


class _Responder:
    """Makes steps of one sequence's progress, on the decode loop's thread."""

    def __init__(self, mailbox: _Mailbox, inbox: _Inbox) -> None:
        self._mailbox, self._inbox = mailbox, inbox
        self._num_reported = 0

    def on_step(self, sequence: Sequence) -> None:
        start, self._num_reported = self._num_reported, len(sequence.completion_token_ids)
        if start == self._num_reported and sequence.finish_reason is None:
            return
        step = Step(
            sequence.completion_token_ids[start:],
            sequence.log_probs[start:] if sequence.request.return_log_probs else None,
            Clocks(sequence.first_scheduled_time_ns, sequence.first_token_time_ns, sequence.last_token_time_ns),
            _finish_reason(sequence),
        )
        self._mailbox.add(self._inbox, step)

    def on_failure(self, failure: Failure) -> None:
        self._mailbox.add(self._inbox, failure)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _finish_reason(sequence: Sequence) -> Literal["stop", "length"] | None:
    if sequence.finish_reason is None:
        return None
    return "length" if sequence.finish_reason is FinishReason.LENGTH else "stop"


def _generation_request(request: Generate) -> GenerationRequest:
    return GenerationRequest(
        prompt_token_ids=request.prompt_token_ids,
        max_new_tokens=request.max_tokens,
        end_id=request.end_id,
        sampling=SamplingParams(**msgspec.structs.asdict(request.sampling), min_tokens=request.min_tokens),
        stop_words=tuple(map(tuple, request.stop_sequences)),
        bad_words=tuple(map(tuple, request.bad_sequences)),
        guide_type=request.guide.kind if request.guide else "",
        guide=request.guide.text if request.guide else "",
        return_log_probs=request.log_probs,
    )
