"""The sandboxed workers: which one does what, for whom, and when it must be replaced."""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from llm_policy.guidance.compile.fair_queue import Tenant, WaitingGuide
from llm_policy.guidance.compile.sandbox import SandboxedWorker

RESTART_PAUSE_S = 0.5
# A start takes seconds of processor time. More at once would delay the first worker.
MAX_STARTING = 2


@dataclass(eq=False)
class Job:
    """A guide on a worker."""

    guide: WaitingGuide
    charged_s: float
    """Monotonic time up to which the tenant's time is counted."""


class WorkerPool:
    """A constant number of workers, used by one thread. The selector reports the workers that became readable.

    A worker that was stopped because of a tenant's guide counts as that tenant's until its successor is ready.
    """

    def __init__(
        self, num_workers: int, start_worker: Callable[[], SandboxedWorker], selector: selectors.BaseSelector
    ) -> None:
        """`start_worker` may raise OSError; it is called again after a pause. No worker starts yet."""
        self.has_been_ready = False
        self._start_worker = start_worker
        self._selector = selector
        self._jobs: dict[SandboxedWorker, Job | None] = {}
        self._starting: dict[SandboxedWorker, Tenant] = {}
        self._to_start: deque[Tenant] = deque([None] * num_workers)
        self._next_start_s = 0.0

    def start_missing(self) -> None:
        """Start missing workers, `MAX_STARTING` at a time, unless the last start failed a moment ago."""
        while self._has_to_start() and time.monotonic() >= self._next_start_s:
            try:
                worker = self._start_worker()
            except OSError:
                self._to_start[0] = None  # this is no tenant's fault
                self._pause_starts()
                return
            self._jobs[worker] = None
            self._starting[worker] = self._to_start.popleft()
            self._selector.register(worker, selectors.EVENT_READ)

    def note_ready(self, worker: SandboxedWorker) -> None:
        """A worker sent its first message."""
        worker.is_ready = True
        self._starting.pop(worker, None)
        self.has_been_ready = True

    def idle(self) -> list[SandboxedWorker]:
        """The workers that can take a guide."""
        return [worker for worker, job in self._jobs.items() if job is None and worker.is_ready and worker.is_alive]

    def jobs(self) -> list[Job]:
        """The guides in progress."""
        return [job for job in self._jobs.values() if job is not None]

    def num_used_by(self, tenant: Tenant) -> int:
        """The number of workers that work for `tenant`, or start because its guide stopped their predecessors."""
        num_starting = [*self._starting.values(), *self._to_start].count(tenant)
        return num_starting + sum(job.guide.tenant == tenant for job in self.jobs())

    def assign(self, worker: SandboxedWorker, job: Job) -> None:
        """Note what a worker does."""
        self._jobs[worker] = job

    def release(self, worker: SandboxedWorker) -> Job | None:
        """Note that a worker is idle again; what it did."""
        job, self._jobs[worker] = self._jobs[worker], None
        return job

    def replace(self, worker: SandboxedWorker) -> Job | None:
        """Stop a worker and start another one; what the stopped one did."""
        job = self._stop(worker)
        if not worker.is_ready:
            self._pause_starts()  # if workers fail to start, this must not become a busy loop
        self._to_start.append(job.guide.tenant if job else None)
        self.start_missing()
        return job

    def overdue(self) -> list[SandboxedWorker]:
        """The workers that took too long to start or to report."""
        now = time.monotonic()
        return [worker for worker in self._with_deadline() if now > worker.deadline]

    def next_deadline(self) -> float:
        """Monotonic time at which the next worker is overdue or has to be started; infinite if none is."""
        deadlines = [worker.deadline for worker in self._with_deadline()]
        return min([*deadlines, *([self._next_start_s] if self._has_to_start() else [])], default=inf)

    def close(self) -> None:
        """Stop all workers."""
        for worker in list(self._jobs):
            self._stop(worker)

    def _has_to_start(self) -> bool:
        return bool(self._to_start) and len(self._starting) < MAX_STARTING

    def _with_deadline(self) -> list[SandboxedWorker]:
        return [worker for worker, job in self._jobs.items() if job is not None or not worker.is_ready]

    def _stop(self, worker: SandboxedWorker) -> Job | None:
        self._selector.unregister(worker)
        worker.kill()
        self._starting.pop(worker, None)
        return self._jobs.pop(worker)

    def _pause_starts(self) -> None:
        self._next_start_s = time.monotonic() + RESTART_PAUSE_S
