"""The queue of guides that wait for compilation, so that a slow guide does not delay other requests.

One thread owns the sandboxed workers, gives each worker one guide at a time and answers the waiting requests. Requests
for the same new guide share one compile. Tenants share what is scarce, so that the flood of one delays and rejects no
first new guide of another: the places in the queues, the new guides of a minute, and the workers' time.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path

from llm_policy.errors import Code, InvalidRequest, PolicyError, Unavailable, create_error
from llm_policy.guidance.compile.adhoc_rate import AdhocRate
from llm_policy.guidance.compile.fair_queue import FairQueue, WaitingGuide
from llm_policy.guidance.compile.guide_cache import GuideCache, Key
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.compile.sandbox import START_TIMEOUT_S, SandboxedWorker
from llm_policy.guidance.compile.shared_room import NoRoom
from llm_policy.guidance.compile.waiting_requests import Callback, WaitingRequest, WaitingRequests
from llm_policy.guidance.compile.worker_pool import Job, WorkerPool
from llm_policy.guidance.guide import EngineGuide, Guide
from llm_policy.release.manifest import Guidance

NUM_WORKERS = 3
MAX_WAITING_GUIDES = 64
MAX_WAITING_REQUESTS = 512
# Planning and probing come on top of the compile that `max_compile_ms` limits.
GRACE_MS = 2_000
# A registered schema compiles before the server is ready, where seconds are well spent.
REGISTERED_TIMEOUT_MS = 60_000
MAX_LISTED_KEYWORDS = 5
MAX_WAIT_S = 9.0
ERROR_PAUSE_S = 0.5
CACHE_WAIT_S, CACHE_POLL_S = 15.0, 0.1


class GuideCompiler:
    """Compiles guides in sandboxed workers. `lookup` never waits; `submit` calls back on the compiler's thread."""

    def __init__(
        self,
        guidance: Guidance,
        tokenizer_info_path: Path,
        cache: GuideCache,
        on_error: Callable[[BaseException], object] = lambda error: None,
        on_report: Callable[[GuideReport | None], object] = lambda report: None,
        *,
        waits_for_cache: bool = False,
    ) -> None:
        """Start the thread and the workers.

        With `waits_for_cache` another process compiles the registered schemas, and this one takes them from the cache
        file; the workers, each of which takes seconds of processor time, start with the first guide that needs one.

        `on_report` is called once for each guide that was not in memory: with its report once it is compiled, with
        None if the cache file had it. A registered schema's report has its name as schema id. `on_error` receives
        unexpected exceptions of the thread and of callbacks.
        """
        self._on_report = on_report
        self._guidance = guidance
        self._on_error = on_error
        self._cache = cache
        # Registered schema → its name. An inline guide with the same text is the same guide.
        self._names: dict[Key, str] = {}
        # Registered schemas are never evicted, however many guides of clients come.
        self._registered: dict[Key, GuideReport] = {}
        self._waiting = WaitingRequests(MAX_WAITING_REQUESTS)
        self._queue = FairQueue(MAX_WAITING_GUIDES)
        self._adhoc_rate = AdhocRate(guidance.max_adhoc_per_minute)
        self._suspects: dict[Key, float] = {}  # guide whose worker died → time of the first death (monotonic)
        self._wakeup_reader, self._wakeup_writer = os.pipe()
        os.set_blocking(self._wakeup_writer, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup_reader, selectors.EVENT_READ)
        self._pool = WorkerPool(NUM_WORKERS, lambda: SandboxedWorker(tokenizer_info_path, guidance), self._selector)
        self._is_closing = False
        self._waits_for_cache = waits_for_cache
        self._needs_workers = not waits_for_cache
        self._thread = threading.Thread(target=self._run, name="guide-compiler", daemon=True)
        self._thread.start()

    def lookup(self, guide: Guide) -> EngineGuide | None:
        """The engine's form of `guide`; None if it is not in memory.

        Raises:
            PolicyError: the guide is rejected.
        """
        report = self._cache.get(guide.kind, guide.text) or self._registered.get(_key(guide))
        if report is None:
            return None
        if (error := self._rejection(guide, report)) is not None:
            raise error
        return EngineGuide(report.engine_type, report.engine_text, guide.name or report.schema_id)

    def submit(self, guides: list[Guide], callback: Callback, tenant: str = "") -> None:
        """Compile `guides`, then call back with the first error, or None.

        The error may be `guidance_unavailable`: the tenant has its share of the waiting guides or of the new guides
        within a minute, or the guides were not compiled in time.

        Raises:
            Unavailable: `guidance_unavailable`: the tenant has its share of the waiting requests.
        """
        missing = {_key(guide) for guide in guides}
        request = WaitingRequest(tenant, guides, callback, time.monotonic() + START_TIMEOUT_S, missing)
        self._needs_workers = True
        try:
            self._waiting.add(request)
        except NoRoom as finding:
            raise _no_room("requests wait for new guides", finding) from None
        self._wake_up()

    def register(self, guides: list[Guide]) -> None:
        """Compile `guides` one after another and wait for them. Guides in the cache file need no worker.

        Raises:
            PolicyError: a registered guide is rejected; the text names it and the reason.
        """
        for guide in guides:
            self._names[_key(guide)] = guide.name  # before `lookup` and the compiler's thread ask for it
            report = self._cache.load(guide.kind, guide.text) or self._wait_for_cache(guide)
            error = self._rejection(guide, report) if report is not None else self._submit_and_wait(guide)
            if error is not None:
                raise error.with_prefix(f"registered schema {guide.name}: ")
            if (report := self._known_report(_key(guide))) is not None:
                self._registered[_key(guide)] = report

    def _wait_for_cache(self, guide: Guide) -> GuideReport | None:
        """The report that another process writes; None if none does in time, and then none is waited for again."""
        deadline = time.monotonic() + CACHE_WAIT_S
        while self._waits_for_cache and time.monotonic() < deadline:
            if (report := self._cache.load(guide.kind, guide.text)) is not None:
                return report
            time.sleep(CACHE_POLL_S)
        self._waits_for_cache = False
        return None

    def _submit_and_wait(self, guide: Guide) -> PolicyError | None:
        done = threading.Event()
        errors: list[PolicyError | None] = []
        self.submit([guide], lambda error: (errors.append(error), done.set())[0])  # type: ignore[func-returns-value]
        done.wait()
        return errors[0]

    def close(self) -> None:
        """Stop the thread and the workers."""
        self._is_closing = True
        self._wake_up()
        self._thread.join(timeout=10)

    def _wake_up(self) -> None:
        """A full pipe wakes the thread as well; writing must never make a request wait."""
        try:
            os.write(self._wakeup_writer, b"!")
        except BlockingIOError:
            return

    def _known_report(self, key: Key) -> GuideReport | None:
        return self._cache.get(*key) or self._registered.get(key)

    def _rejection(self, guide: Guide, report: GuideReport) -> PolicyError | None:
        if report.code:
            return create_error(Code(report.code), report.detail)
        if report.unenforced and self._guidance.unenforced_keywords == "reject":
            first = ", ".join(dict.fromkeys(report.unenforced[:MAX_LISTED_KEYWORDS]))
            count = len(report.unenforced)
            return InvalidRequest(Code.SCHEMA_INVALID, f"{count} keywords can't be enforced, limit 0: {first}")
        is_slow = report.compile_ms > self._guidance.max_compile_ms
        if is_slow and _key(guide) not in self._names:
            return self._too_slow(f"took {report.compile_ms:.0f} ms to compile")
        return None

    def _too_slow(self, what: str) -> InvalidRequest:
        limit = self._guidance.max_compile_ms
        return InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"guide {what}, limit {limit} ms (max_compile_ms)")

    # The methods below run on the compiler's thread.

    def _run(self) -> None:
        while not self._is_closing:
            self._run_once()
        self._pool.close()

    def _run_once(self) -> None:
        """One round of the loop. A bug must not end the thread, because guided requests would then wait forever."""
        try:
            if self._needs_workers:
                self._pool.start_missing()
            self._admit_arrivals()
            self._dispatch()
            self._receive()
            self._replace_overdue_workers()
            self._expire_requests()
        except Exception as error:
            self._on_error(error)
            time.sleep(ERROR_PAUSE_S)

    def _admit_arrivals(self) -> None:
        while (request := self._waiting.next_arrival()) is not None:
            if self._pool.has_been_ready and not request.is_registered:
                request.deadline = min(request.deadline, time.monotonic() + MAX_WAIT_S)
            try:
                self._admit(request)
            except PolicyError as error:
                self._waiting.remove(request)
                self._answer([request], error)
        if displaced := self._waiting.take_displaced():
            self._answer(displaced, _displaced("request", MAX_WAITING_REQUESTS))
            self._drop_abandoned_guides()

    def _admit(self, request: WaitingRequest) -> None:
        """Queue the guides of a request that are neither known nor in progress.

        Raises:
            Unavailable: `guidance_unavailable`: the tenant has its share of the waiting guides or of the minute's.
        """
        self._names.update({_key(guide): guide.name for guide in request.guides if guide.name})
        for key in [key for key in request.missing if self._is_known(key)]:
            self._complete(key)
        missing = request.missing - {job.guide.key for job in self._pool.jobs()}
        waiting = [key for key in dict.fromkeys(map(_key, request.guides)) if key in missing]
        registered = [key for key in waiting if key in self._names]
        adhoc = [key for key in waiting if key not in self._names]
        num_new = sum(key not in self._queue for key in adhoc)
        now = time.monotonic()
        if num_new:
            self._adhoc_rate.check(request.tenant, num_new, now)
        try:
            displaced = self._queue.add(request.tenant, adhoc)
        except NoRoom as finding:
            raise _no_room("new guides wait", finding) from None
        if num_new:
            self._adhoc_rate.add(request.tenant, num_new, now)
        self._queue.add(None, registered)
        self._reject_displaced(displaced)

    def _is_known(self, key: Key) -> bool:
        """Whether the guide is in memory, or in the cache file and not waiting."""
        if self._known_report(key) is not None:
            return True
        if key in self._queue or self._cache.load(*key) is None:
            return False
        self._on_report(None)
        return True

    def _reject_displaced(self, keys: list[Key]) -> None:
        """Reject the requests that wait for guides that lost their places."""
        if keys:
            self._answer(self._waiting.take_missing(keys), _displaced("new guide", MAX_WAITING_GUIDES))
            self._drop_abandoned_guides()

    def _dispatch(self) -> None:
        """Give idle workers guides."""
        while idle := self._pool.idle():
            now = time.monotonic()
            self._charge(now)
            guide = self._queue.take(now, partial(self._can_take, idle))
            if guide is None:
                return
            worker = _newest(idle)
            self._pool.assign(worker, Job(guide, now))
            is_registered = guide.key in self._names
            try:
                worker.send(*guide.key, self._timeout_ms(guide.key) / 1_000, is_registered=is_registered)
            except BrokenPipeError:  # the worker died while it was idle: the guide did not kill it
                self._pool.release(worker)
                self._queue.put_back(guide)
                return

    def _can_take(self, idle: list[SandboxedWorker], guide: WaitingGuide) -> bool:
        """Whether `guide` may have one of the idle workers.

        A tenant that uses a worker already leaves the last idle one to the others.
        """
        if len(idle) == 1 and guide.tenant is not None and self._pool.num_used_by(guide.tenant):
            return False
        # Only a worker that was alive after the guide's first death shows that the guide kills workers.
        return _newest(idle).last_message_s > self._suspects.get(guide.key, -inf)

    def _charge(self, now: float) -> None:
        """Count the workers' time since the last call."""
        for job in self._pool.jobs():
            self._queue.charge(job.guide.tenant, now - job.charged_s, now)
            job.charged_s = now

    def _timeout_ms(self, key: Key) -> int:
        limit_ms = self._guidance.max_compile_ms + GRACE_MS
        return max(limit_ms, REGISTERED_TIMEOUT_MS) if key in self._names else limit_ms

    def _receive(self) -> None:
        pool_deadline = self._pool.next_deadline() if self._needs_workers else inf
        deadline = min(pool_deadline, self._waiting.next_deadline())
        timeout_s = None if deadline == inf else max(0.01, deadline - time.monotonic())
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj == self._wakeup_reader:
                os.read(self._wakeup_reader, 4_096)
            else:
                self._on_readable(key.fileobj)  # type: ignore[arg-type]

    def _on_readable(self, worker: SandboxedWorker) -> None:
        try:
            message = worker.receive()
        except EOFError:
            self._on_exit(worker)
            return
        if message is None:
            return
        worker.last_message_s = time.monotonic()
        if not worker.is_ready:
            self._on_ready(worker)
            return
        self._charge(worker.last_message_s)
        job = self._pool.release(worker)
        if job is not None:
            self._on_compiled(job.guide.key, GuideReport(*message))

    def _on_ready(self, worker: SandboxedWorker) -> None:
        if not self._pool.has_been_ready:
            self._waiting.limit_wait(time.monotonic() + MAX_WAIT_S)
        self._pool.note_ready(worker)

    def _on_compiled(self, key: Key, report: GuideReport) -> None:
        self._suspects.pop(key, None)
        self._cache.put(*key, report)
        name = self._names.get(key)
        self._on_report(report._replace(schema_id=name) if name and not report.code else report)
        self._complete(key)

    def _on_exit(self, worker: SandboxedWorker) -> None:
        """Replace a dead worker. Its guide gets a second try, because something else may have killed the workers.

        The guide is rejected if it also kills a worker that sent a message after the first death.
        """
        now = time.monotonic()
        self._charge(now)
        job = self._pool.replace(worker)
        if job is None:
            return
        first_death_s = self._suspects.pop(job.guide.key, None)
        if first_death_s is not None and worker.last_message_s > first_death_s:
            self._reject(job, Code.SCHEMA_TOO_COMPLEX, "guide stopped the grammar compiler")
            return
        self._suspects[job.guide.key] = first_death_s or now
        self._queue.put_back(job.guide)
        self._drop_abandoned_guides()

    def _replace_overdue_workers(self) -> None:
        for worker in self._pool.overdue():
            self._charge(time.monotonic())
            job = self._pool.replace(worker)
            if job is not None:
                error = self._too_slow(f"took more than {self._timeout_ms(job.guide.key)} ms")
                self._reject(job, error.code, error.detail)

    def _reject(self, job: Job, code: Code, detail: str) -> None:
        """Reject a guide that overran or killed its worker, for a limited time."""
        self._cache.put(*job.guide.key, GuideReport(code.value, detail), is_temporary=True)
        self._complete(job.guide.key)

    def _expire_requests(self) -> None:
        """Reject the requests whose deadline has passed, so that none waits forever."""
        now = time.monotonic()
        if expired := self._waiting.take_if(lambda request: now > request.deadline):
            error = Unavailable(Code.GUIDANCE_UNAVAILABLE, "the guide was not compiled in time; try again")
            self._answer(expired, error)
            self._drop_abandoned_guides()

    def _drop_abandoned_guides(self) -> None:
        """Forget the guides that no request waits for any more."""
        missing = self._waiting.missing()
        self._queue.retain(missing)
        self._suspects = {key: death_s for key, death_s in self._suspects.items() if key in missing}

    def _complete(self, key: Key) -> None:
        """Answer every request for which `key` was the last missing guide."""
        for request in self._waiting.take_complete(key):
            self._answer([request], self._first_error(request.guides))

    def _answer(self, requests: list[WaitingRequest], error: PolicyError | None) -> None:
        """Call back; an exception in one callback must not stop the thread."""
        for request in requests:
            try:
                request.callback(error)
            except Exception as callback_error:  # noqa: PERF203 - each callback on its own
                self._on_error(callback_error)

    def _first_error(self, guides: list[Guide]) -> PolicyError | None:
        try:
            if all(self.lookup(guide) is not None for guide in guides):
                return None
        except PolicyError as error:
            return error
        return Unavailable(Code.GUIDANCE_UNAVAILABLE, "the compiled guide was evicted from the cache; try again")


def _key(guide: Guide) -> Key:
    return guide.kind, guide.text


def _newest(workers: list[SandboxedWorker]) -> SandboxedWorker:
    return max(workers, key=lambda worker: worker.last_message_s)


def _no_room(what: str, finding: NoRoom) -> Unavailable:
    return Unavailable(
        Code.GUIDANCE_UNAVAILABLE,
        f"{finding.num_taken} {what}, {finding.num_own} of them of this tenant, limit {finding.limit} of all tenants "
        "together; try again later",
    )


def _displaced(what: str, limit: int) -> Unavailable:
    return Unavailable(
        Code.GUIDANCE_UNAVAILABLE,
        f"this tenant's newest waiting {what} gave its place to another tenant, limit {limit} of all tenants together; "
        "try again later",
    )
