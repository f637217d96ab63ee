"""The one thread that decodes: jobs come in, grammars become ready, sequences end, jobs go out.

Knows nothing of Triton: a job answers through the callbacks it brings.
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
from portable_engine.failure import DEAD_END, NO_MEMORY, STEP_FAILED, STOPPING, UNWRITABLE, Failure
from portable_engine.grammar import GuideError
from portable_engine.sequence import Finish, GenerationRequest, Sequence

CANCEL_POLL_NS = 50_000_000
_FAILURES = {Finish.DEAD_END: DEAD_END, Finish.NO_MEMORY: NO_MEMORY}


class Grammars(Protocol):
    """What the loop needs of guided decoding."""

    def compile(self, guide_type: str, guide: str) -> Future[Any]:
        """The compiled grammar, when it is ready."""

    def matcher(self, grammar: Any, end_id: int) -> Any:
        """One sequence's state."""


@dataclass(eq=False)
class Job:
    """The rows of one request, answered together."""

    sequences: list[Sequence]
    on_done: Callable[[list[Sequence]], None]
    on_error: Callable[[Failure], None]
    is_cancelled: Callable[[], bool]
    grammars: list[Future[Any] | None]
    on_cancelled: Callable[[], None]
    is_over: bool = False


class EngineLoop:
    """Runs an `InFlightBatcher` on a thread of its own."""

    def __init__(self, batcher: InFlightBatcher, grammars: Grammars, log: Callable[[str], None]) -> None:
        self._batcher = batcher
        self._grammars = grammars
        self._log = log
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}  # by id of each sequence in the batcher
        self._waiting: list[Job] = []  # for their grammars
        self._next_poll_ns = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="decode-loop", daemon=True)
        self._thread.start()

    def submit(
        self,
        requests: list[GenerationRequest],
        on_done: Callable[[list[Sequence]], None],
        on_error: Callable[[Failure], None],
        is_cancelled: Callable[[], bool],
        on_cancelled: Callable[[], None],
    ) -> None:
        """Queue one job; its callbacks are called on the loop's thread, one of them, once.

        Where `on_done` itself fails, `on_error` follows, so that the client learns of it.
        """
        now = time.monotonic_ns()
        sequences = [Sequence(request, arrival_time_ns=now) for request in requests]
        grammars = [self._grammars.compile(r.guide_type, r.guide) if r.guide_type else None for r in requests]
        job = Job(sequences, on_done, on_error, is_cancelled, grammars, on_cancelled)
        for grammar in grammars:
            if grammar is not None:
                grammar.add_done_callback(lambda _: self._inbox.put(job))
        self._inbox.put(job)

    def close(self) -> None:
        """End what is in flight and stop the thread."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._is_closing:
            self._receive()
            self._poll_cancellations()
            if self._batcher.is_idle:
                continue
            try:
                ended = self._batcher.step()
            except Exception as error:
                self._fail_all(error)
            else:
                self._answer(ended)
        self._stop()

    def _stop(self) -> None:
        """Answer what is left and let go of it: Triton's response senders must not outlive this thread."""
        for job in {id(job): job for job in [*self._jobs.values(), *self._waiting]}.values():
            if not job.is_over:
                self._end(job, lambda job: job.on_error(STOPPING))
        self._jobs.clear()
        self._waiting.clear()
        self._batcher.clear()

    def _receive(self) -> None:
        """Take what came in; wait for it when there is nothing to decode."""
        wait = self._batcher.is_idle
        while True:
            try:
                job = self._inbox.get(block=wait, timeout=0.05 if self._waiting else None)
            except queue.Empty:
                return
            wait = False
            if job is None:
                self._is_closing = True
                return
            self._admit(job)

    def _admit(self, job: Job) -> None:
        """Put the job's sequences into the batcher once all its grammars are ready."""
        if job.is_over or id(job.sequences[0]) in self._jobs:
            return
        if not all(grammar is None or grammar.done() for grammar in job.grammars):
            if job not in self._waiting:
                self._waiting.append(job)
            return
        if job in self._waiting:
            self._waiting.remove(job)
        try:
            for sequence, grammar in zip(job.sequences, job.grammars, strict=True):
                if grammar is not None:
                    sequence.matcher = self._grammars.matcher(grammar.result(), sequence.request.end_id)
        except GuideError as error:
            failure = Failure("schema_invalid", str(error))
            self._end(job, lambda job: job.on_error(failure))
            return
        for sequence in job.sequences:
            self._jobs[id(sequence)] = job
            self._batcher.add(sequence)

    def _poll_cancellations(self) -> None:
        now = time.monotonic_ns()
        if now < self._next_poll_ns:
            return
        self._next_poll_ns = now + CANCEL_POLL_NS
        for job in {id(job): job for job in [*self._jobs.values(), *self._waiting]}.values():
            if not job.is_over and self._is_cancelled(job):
                self._drop(job)
                if job in self._waiting:
                    self._waiting.remove(job)
                self._end(job, lambda job: job.on_cancelled())

    def _is_cancelled(self, job: Job) -> bool:
        try:
            return job.is_cancelled()
        except Exception as error:  # whoever can't be asked any more is decoded to the end
            self._log(f"cancellation not known: {type(error).__name__}")
            job.is_cancelled = bool
            return False

    def _answer(self, ended: list[Sequence]) -> None:
        for sequence in ended:
            job = self._jobs.pop(id(sequence))
            failure = _FAILURES.get(sequence.finish) if sequence.finish else None
            if job.is_over:
                continue
            if failure is not None:
                self._drop(job)
                self._end(job, lambda job, failure=failure: job.on_error(failure))  # type: ignore[misc]
            elif all(s.finish is not None for s in job.sequences):
                self._end(job, lambda job: job.on_done(job.sequences))

    def _drop(self, job: Job) -> None:
        """Nobody waits for the job's sequences any more."""
        for sequence in job.sequences:
            self._batcher.cancel(sequence)

    def _fail_all(self, error: Exception) -> None:
        """A step failed: nobody's state can be trusted, but the loop goes on."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        self._log(f"decode step failed: {type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:200]}")
        self._batcher.clear()
        jobs = {id(job): job for job in self._jobs.values()}
        self._jobs.clear()
        for job in jobs.values():
            if not job.is_over:
                self._end(job, lambda job: job.on_error(STEP_FAILED))

    def _end(self, job: Job, answer: Callable[[Job], None]) -> None:
        job.is_over = True
        if not self._try(job, answer):
            self._try(job, lambda job: job.on_error(UNWRITABLE))

    def _try(self, job: Job, answer: Callable[[Job], None]) -> bool:
        try:
            answer(job)
        except Exception as error:
            self._log(f"answer failed: {type(error).__name__}")
            return False
        return True
