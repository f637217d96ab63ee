"""The decode loop: one thread that admits jobs, steps the batcher and reports the tokens.

Threads: `submit`, `cancel` and `close` are called on the caller's thread, guides compile on the grammar engine's. All
reach the loop only through its inbox. The batcher, the matchers and every `Responder` are used on the loop's thread.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from portable_engine.batcher import InFlightBatcher
from portable_engine.failure import NO_ALLOWED_TOKEN, OUT_OF_MEMORY, STEP_FAILED, STOPPING, Failure
from portable_engine.guide_backend import GuideError
from portable_engine.sequence import FinishReason, GenerationRequest, Matcher, Sequence

_CLOSE_TIMEOUT_S = 30
_FAILURES = {FinishReason.NO_ALLOWED_TOKEN: NO_ALLOWED_TOKEN, FinishReason.OUT_OF_MEMORY: OUT_OF_MEMORY}


class Grammars(Protocol):
    """The loop's interface to guided decoding."""

    def compile(self, guide_type: str, guide: str) -> Future[Any]:
        """Compile a guide in the background."""

    def matcher(self, grammar: Any, end_id: int) -> Matcher:
        """A new matcher, the state of one sequence."""


class Responder(Protocol):
    """Receives what becomes of one request: its tokens, then either its last tokens or a failure."""

    def on_step(self, sequence: Sequence) -> None:
        """The sequence has new tokens; its `finish_reason` is set in the last call."""

    def on_failure(self, failure: Failure) -> None:
        """The request failed; this is the last call."""


@dataclass(eq=False)
class Job:
    """One request."""

    sequence: Sequence
    grammar: Future[Any] | None
    responder: Responder
    is_answered: bool = False


class EngineLoop:
    """Runs an `InFlightBatcher` on a thread of its own."""

    def __init__(
        self,
        batcher: InFlightBatcher,
        grammars: Grammars,
        log: Callable[[str], None],
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """`after_step` is called on the loop's thread when the responders have what a step brought them."""
        self._after_step = after_step
        self._batcher = batcher
        self._grammars = grammars
        self._log = log
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}  # by id of its sequence, in the batcher
        self._compiling: list[Job] = []
        self._is_closing = False
        self.last_step_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="decode-loop", daemon=True)
        self._thread.start()

    def submit(
        self, request: GenerationRequest, responder: Responder, tenant: str = "", arrival_time_ns: int = 0
    ) -> Job:
        """Queue one request. `tenant` shares the slots with the other tenants. Returns immediately."""
        sequence = Sequence(request, arrival_time_ns=arrival_time_ns or time.monotonic_ns(), tenant=tenant)
        grammar = self._grammars.compile(request.guide_type, request.guide) if request.guide_type else None
        job = Job(sequence, grammar, responder)
        self._inbox.put(lambda: self._admit(job))
        if grammar is not None:
            grammar.add_done_callback(lambda _: self._inbox.put(lambda: self._admit(job)))
        return job

    def cancel(self, job: Job) -> None:
        """Free what the request holds; its responder is called no more. Returns immediately."""
        self._inbox.put(lambda: self._cancel(job))

    def close(self) -> None:
        """Fail the requests in flight and stop the thread."""
        self._inbox.put(self._begin_closing)
        self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def _begin_closing(self) -> None:
        self._is_closing = True

    def _run(self) -> None:
        while not self._is_closing:
            self._receive()
            if self._is_closing or self._batcher.is_idle:
                continue
            try:
                finished = self._batcher.step()
            except Exception as error:
                self._fail_all(error)
            else:
                self.last_step_ns = time.monotonic_ns()
                self._report(finished)
        self._stop()

    def _stop(self) -> None:
        for job in [*self._jobs.values(), *self._compiling]:
            self._fail(job, STOPPING)
        self._jobs.clear()
        self._compiling.clear()
        self._batcher.clear()

    def _receive(self) -> None:
        """Do what is in the inbox. Blocks for the first entry while there is nothing to decode."""
        wait = self._batcher.is_idle
        while not self._is_closing:
            try:
                action = self._inbox.get(block=wait)
            except queue.Empty:
                return
            wait = False
            action()

    def _admit(self, job: Job) -> None:
        """Add the job's sequence to the batcher once its grammar is compiled.

        A job arrives when it is submitted and again after the compilation.
        """
        if job.is_answered or id(job.sequence) in self._jobs:
            return
        if job.grammar is not None and not job.grammar.done():
            if job not in self._compiling:
                self._compiling.append(job)
            return
        if job in self._compiling:
            self._compiling.remove(job)
        try:
            if job.grammar is not None:
                job.sequence.matcher = self._grammars.matcher(job.grammar.result(), job.sequence.request.end_id)
        except GuideError as error:
            self._fail(job, error.failure)
            return
        self._jobs[id(job.sequence)] = job
        self._batcher.add(job.sequence)

    def _cancel(self, job: Job) -> None:
        job.is_answered = True
        if job in self._compiling:
            self._compiling.remove(job)
        self._batcher.cancel(job.sequence)

    def _report(self, finished: list[Sequence]) -> None:
        """Report the new tokens of every sequence, and drop the finished ones."""
        for job in self._jobs.values():
            failure = _failure_of(job.sequence)
            if job.is_answered:
                continue
            if failure is not None:
                self._fail(job, failure)
            else:
                job.is_answered = job.sequence.finish_reason is not None
                job.responder.on_step(job.sequence)
        for sequence in finished:
            self._jobs.pop(id(sequence), None)
        self._after_step()

    def _fail_all(self, error: Exception) -> None:
        """Fail all running jobs after a failed step, whose state is undefined; the loop continues."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        self._log(f"decode step failed: {type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:200]}")
        self._batcher.clear()
        jobs = [*self._jobs.values()]
        self._jobs.clear()
        for job in jobs:
            self._fail(job, STEP_FAILED)

    def _fail(self, job: Job, failure: Failure) -> None:
        if not job.is_answered:
            job.is_answered = True
            job.responder.on_failure(failure)
            self._after_step()


def _failure_of(sequence: Sequence) -> Failure | None:
    """Why a finished sequence failed; None if it did not."""
    if sequence.finish_reason is FinishReason.GUIDE_FAILED and sequence.matcher is not None:
        return sequence.matcher.failure
    return _FAILURES.get(sequence.finish_reason) if sequence.finish_reason else None
