"""The decode loop: one thread that admits jobs, steps the batcher and sends the responses.

Threads: `submit` and `close` are called on the caller's thread, guides compile on the grammar engine's. Both reach the
loop only through its inbox. The batcher, the matchers and every `Responder` are used on the loop's thread alone. The
module does not depend on Triton.
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
from portable_engine.failure import NO_ALLOWED_TOKEN, OUT_OF_MEMORY, RESPONSE_FAILED, STEP_FAILED, STOPPING, Failure
from portable_engine.guide_backend import GuideError
from portable_engine.sequence import FinishReason, GenerationRequest, Matcher, Sequence
from portable_engine.usage_journal import UsageJournal

CANCEL_POLL_NS = 50_000_000
DEFAULT_MAX_ANSWER_NS = 300_000_000_000
_COMPILE_POLL_S = 0.05  # how often an idle loop looks for cancelled jobs while their guides compile
_CLOSE_TIMEOUT_S = 30
_FAILURES = {FinishReason.NO_ALLOWED_TOKEN: NO_ALLOWED_TOKEN, FinishReason.OUT_OF_MEMORY: OUT_OF_MEMORY}


class Grammars(Protocol):
    """The loop's interface to guided decoding."""

    def compile(self, guide_type: str, guide: str) -> Future[Any]:
        """Compile a guide in the background."""

    def matcher(self, grammar: Any, end_id: int) -> Matcher:
        """A new matcher, the state of one sequence."""


class Responder(Protocol):
    """Sends the response to one request. The loop calls one of the send methods, once.

    If `send_result` raises, the loop calls `send_error`, so that the client still gets a response.
    """

    def is_cancelled(self) -> bool:
        """Whether the client cancelled the request."""

    def send_result(self, sequences: list[Sequence]) -> None:
        """Send the finished sequences, one per row."""

    def send_error(self, failure: Failure) -> None:
        """Send an error."""

    def send_cancelled(self) -> None:
        """Confirm the cancellation."""


@dataclass(eq=False)
class Job:
    """One request: its rows get one response together."""

    sequences: list[Sequence]
    grammars: list[Future[Any] | None]
    responder: Responder
    deadline_ns: int
    is_answered: bool = False
    polls_cancellation: bool = True


class EngineLoop:
    """Runs an `InFlightBatcher` on a thread of its own."""

    def __init__(
        self,
        batcher: InFlightBatcher,
        grammars: Grammars,
        log: Callable[[str], None],
        max_answer_ns: int = DEFAULT_MAX_ANSWER_NS,
        journal: UsageJournal | None = None,
    ) -> None:
        """`max_answer_ns`: how long a request may take from its arrival; then its decoding ends."""
        self._max_answer_ns = max_answer_ns
        self._journal = journal
        self._batcher = batcher
        self._grammars = grammars
        self._log = log
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}  # by id of each sequence in the batcher
        self._compiling: list[Job] = []
        self._next_poll_ns = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="decode-loop", daemon=True)
        self._thread.start()

    def submit(
        self,
        requests: list[GenerationRequest],
        responder: Responder,
        tenant: str = "",
        timeout_ns: int = 0,
        ledger_ids: list[int] | None = None,
    ) -> None:
        """Queue one job, the rows of one Triton request. Returns immediately.

        `tenant` shares the slots with the other tenants; `timeout_ns` is the client's own limit, 0 if it set none.
        """
        now = time.monotonic_ns()
        deadline_ns = now + min(timeout_ns or self._max_answer_ns, self._max_answer_ns)
        sequences = [
            Sequence(request, arrival_time_ns=now, tenant=tenant, ledger_id=ledger_id)
            for request, ledger_id in zip(requests, ledger_ids or [0] * len(requests), strict=True)
        ]
        grammars = [self._grammars.compile(r.guide_type, r.guide) if r.guide_type else None for r in requests]
        job = Job(sequences, grammars, responder, deadline_ns)
        for grammar in grammars:
            if grammar is not None:
                grammar.add_done_callback(lambda _: self._inbox.put(job))
        self._inbox.put(job)

    def close(self) -> None:
        """Fail the jobs in flight and stop the thread."""
        self._inbox.put(None)
        self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._is_closing:
            if self._batcher.is_idle or (self._journal is not None and self._journal.is_due()):
                self._note_usage()  # each second, and before the thread waits
            self._receive()
            self._end_jobs()
            if self._batcher.is_idle:
                continue
            try:
                finished = self._batcher.step()
            except Exception as error:
                self._fail_all(error)
            else:
                self._answer_finished(finished)
        self._stop()

    def _note_usage(self) -> None:
        """Note the tokens of all sequences that have no answer, and write all notes."""
        if self._journal is not None:
            self._journal.note(sequence for job in self._unanswered_jobs() for sequence in job.sequences)
            self._journal.flush()

    def _stop(self) -> None:
        """Fail and release all jobs: Triton's response senders must not outlive this thread."""
        self._note_usage()
        if self._journal is not None:
            self._journal.close()
        for job in self._unanswered_jobs():
            self._send_error(job, STOPPING)
        self._jobs.clear()
        self._compiling.clear()
        self._batcher.clear()

    def _unanswered_jobs(self) -> list[Job]:
        jobs = {id(job): job for job in [*self._jobs.values(), *self._compiling]}
        return [job for job in jobs.values() if not job.is_answered]

    def _receive(self) -> None:
        """Admit the jobs in the inbox. Blocks for the first one while there is nothing to decode."""
        wait = self._batcher.is_idle
        while True:
            try:
                job = self._inbox.get(block=wait, timeout=_COMPILE_POLL_S if self._compiling else None)
            except queue.Empty:
                return
            wait = False
            if job is None:
                self._is_closing = True
                return
            self._admit(job)

    def _admit(self, job: Job) -> None:
        """Add the job's sequences to the batcher once all its grammars are compiled.

        A job arrives when it is submitted and again after each compilation.
        """
        if job.is_answered or id(job.sequences[0]) in self._jobs:
            return
        if not all(grammar is None or grammar.done() for grammar in job.grammars):
            if job not in self._compiling:
                self._compiling.append(job)
            return
        if job in self._compiling:
            self._compiling.remove(job)
        try:
            for sequence, grammar in zip(job.sequences, job.grammars, strict=True):
                if grammar is not None:
                    sequence.matcher = self._grammars.matcher(grammar.result(), sequence.request.end_id)
        except GuideError as error:
            self._send_error(job, error.failure)
            return
        for sequence in job.sequences:
            self._jobs[id(sequence)] = job
            self._batcher.add(sequence)

    def _end_jobs(self) -> None:
        """End the jobs that their clients cancelled, and those whose time is up."""
        now = time.monotonic_ns()
        if now < self._next_poll_ns:
            return
        self._next_poll_ns = now + CANCEL_POLL_NS
        for job in self._unanswered_jobs():
            if self._is_cancelled(job):
                self._cancel_sequences(job)
                if job in self._compiling:
                    self._compiling.remove(job)
                self._send(job, job.responder.send_cancelled)
            elif now >= job.deadline_ns:
                for sequence in job.sequences:
                    self._batcher.end_late(sequence)

    def _is_cancelled(self, job: Job) -> bool:
        if not job.polls_cancellation:
            return False
        try:
            return job.responder.is_cancelled()
        except Exception as error:  # decode the job to its end without polling again
            self._log(f"cancellation poll failed: {type(error).__name__}")
            job.polls_cancellation = False
            return False

    def _answer_finished(self, finished: list[Sequence]) -> None:
        if self._journal is not None:
            self._journal.note(finished)
        for sequence in finished:
            job = self._jobs.pop(id(sequence))
            if job.is_answered:
                continue
            failure = _failure_of(sequence)
            if failure is not None:
                self._cancel_sequences(job)
                self._send_error(job, failure)
            elif all(s.finish_reason is not None for s in job.sequences):
                self._send_result(job)

    def _cancel_sequences(self, job: Job) -> None:
        for sequence in job.sequences:
            self._batcher.cancel(sequence)

    def _fail_all(self, error: Exception) -> None:
        """Fail all running jobs after a failed step, whose state is undefined; the loop continues."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        self._log(f"decode step failed: {type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:200]}")
        self._batcher.clear()
        jobs = {id(job): job for job in self._jobs.values()}
        self._jobs.clear()
        for job in jobs.values():
            if not job.is_answered:
                self._send_error(job, STEP_FAILED)

    def _send_result(self, job: Job) -> None:
        self._send(job, lambda: job.responder.send_result(job.sequences))

    def _send_error(self, job: Job, failure: Failure) -> None:
        self._send(job, lambda: job.responder.send_error(failure))

    def _send(self, job: Job, send: Callable[[], None]) -> None:
        """Mark the job answered and send its response, or an error if that fails."""
        job.is_answered = True
        if not self._try(send):
            self._try(lambda: job.responder.send_error(RESPONSE_FAILED))

    def _try(self, send: Callable[[], None]) -> bool:
        try:
            send()
        except Exception as error:
            self._log(f"response failed: {type(error).__name__}")
            return False
        return True


def _failure_of(sequence: Sequence) -> Failure | None:
    """Why a finished sequence failed; None if it did not."""
    if sequence.finish_reason is FinishReason.GUIDE_FAILED and sequence.matcher is not None:
        return sequence.matcher.failure
    return _FAILURES.get(sequence.finish_reason) if sequence.finish_reason else None
