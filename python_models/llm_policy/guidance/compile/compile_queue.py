"""The queue of guides that wait for compilation, so that a slow guide does not delay other requests.

One thread owns the sandboxed workers, gives each worker one guide at a time and answers the waiting requests. Requests
for the same new guide share one compile.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llm_policy.errors import Code, InvalidRequest, PolicyError, Unavailable, create_error
from llm_policy.guidance.compile.guide_cache import GuideCache, Key
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.compile.sandbox import START_TIMEOUT_S, SandboxedWorker
from llm_policy.guidance.guide import EngineGuide, Guide
from llm_policy.release.manifest import Guidance

NUM_WORKERS = 2
MAX_WAITING_GUIDES = 64
MAX_WAITING_REQUESTS = 512
# Planning and probing come on top of the compile that `max_compile_ms` limits.
GRACE_MS = 2_000
MAX_LISTED_KEYWORDS = 5
MAX_WAIT_S = 9.0
RESTART_PAUSE_S = 0.5

Callback = Callable[[PolicyError | None], None]


@dataclass(eq=False)
class _Waiter:
    """A request that waits until all its guides are compiled."""

    missing: set[Key]
    guides: list[Guide]
    callback: Callback
    deadline: float


@dataclass(eq=False)
class _Queue:
    """State shared between the callers and the compiler's thread; guarded by `GuideCompiler._lock`."""

    keys: deque[Key] = field(default_factory=deque)
    waiters: list[_Waiter] = field(default_factory=list)
    adhoc_times: deque[float] = field(default_factory=deque)
    is_closing: bool = False


class GuideCompiler:
    """Compiles guides in sandboxed workers. `lookup` never waits; `submit` calls back on the compiler's thread."""

    def __init__(
        self,
        guidance: Guidance,
        tokenizer_info_path: Path,
        cache: GuideCache,
        on_error: Callable[[BaseException], object] = lambda error: None,
        on_report: Callable[[GuideReport | None], object] = lambda report: None,
    ) -> None:
        """Start the thread and the workers.

        `on_report` is called once for each guide that was not in memory: with its report once it is compiled, with
        None if the cache file had it. `on_error` receives unexpected exceptions of the thread and of callbacks.
        """
        self._on_report = on_report
        self._guidance = guidance
        self._on_error = on_error
        self._tokenizer_info_path = tokenizer_info_path
        self._cache = cache
        self._queue = _Queue()
        self._lock = threading.Lock()
        self._wakeup_reader, self._wakeup_writer = os.pipe()
        self._workers: dict[SandboxedWorker, Key | None] = {}
        self._suspects: dict[Key, float] = {}  # guide whose worker died → time of the first death (monotonic)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup_reader, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="guide-compiler", daemon=True)
        self._thread.start()

    def lookup(self, guide: Guide) -> EngineGuide | None:
        """The engine's form of `guide`; None if it is not in memory.

        Raises:
            PolicyError: the guide is rejected.
        """
        report = self._cache.get(guide.kind, guide.text)
        if report is None:
            return None
        if (error := self._rejection(guide, report)) is not None:
            raise error
        return EngineGuide(report.engine_type, report.engine_text, guide.name or report.schema_id)

    def submit(self, guides: list[Guide], callback: Callback) -> None:
        """Compile `guides`, then call back with the first error, or None.

        Raises:
            Unavailable: `guidance_unavailable`: too many guides or requests wait, or too many new guides came within
                a minute.
        """
        with self._lock:
            new = {(guide.kind, guide.text) for guide in guides} - set(self._queue.keys) - set(self._keys_in_progress())
            self._check_capacity(new, is_adhoc=not all(guide.name for guide in guides))
            self._queue.keys.extend(new)
            missing = {(guide.kind, guide.text) for guide in guides}
            # A registered schema may wait for the workers to start; a client's guide may not.
            timeout_s = START_TIMEOUT_S if all(guide.name for guide in guides) else MAX_WAIT_S
            self._queue.waiters.append(_Waiter(missing, guides, callback, time.monotonic() + timeout_s))
        os.write(self._wakeup_writer, b"!")

    def register(self, guides: list[Guide]) -> None:
        """Compile `guides` one after another and wait for them. Guides in the cache file need no worker.

        Raises:
            PolicyError: a registered guide is rejected; the text names it and the reason.
        """
        for guide in guides:
            report = self._cache.load(guide.kind, guide.text)
            error = self._rejection(guide, report) if report is not None else self._submit_and_wait(guide)
            if error is not None:
                raise error.with_prefix(f"registered schema {guide.name}: ")

    def _submit_and_wait(self, guide: Guide) -> PolicyError | None:
        done = threading.Event()
        errors: list[PolicyError | None] = []
        self.submit([guide], lambda error: (errors.append(error), done.set())[0])  # type: ignore[func-returns-value]
        done.wait()
        return errors[0]

    def close(self) -> None:
        """Stop the thread and the workers."""
        self._queue.is_closing = True
        os.write(self._wakeup_writer, b"!")
        self._thread.join(timeout=10)

    def _check_capacity(self, new: set[Key], *, is_adhoc: bool) -> None:
        queue, now = self._queue, time.monotonic()
        if len(queue.keys) + len(new) > MAX_WAITING_GUIDES or len(queue.waiters) >= MAX_WAITING_REQUESTS:
            raise Unavailable(
                Code.GUIDANCE_UNAVAILABLE, f"{len(queue.keys)} new guides are waiting, limit {MAX_WAITING_GUIDES}"
            )
        while queue.adhoc_times and queue.adhoc_times[0] < now - 60:
            queue.adhoc_times.popleft()
        limit = self._guidance.max_adhoc_per_minute
        if is_adhoc and new and len(queue.adhoc_times) + len(new) > limit:
            raise Unavailable(
                Code.GUIDANCE_UNAVAILABLE,
                f"{len(queue.adhoc_times)} new guides came within a minute, limit {limit} (max_adhoc_per_minute)",
            )
        if is_adhoc:
            queue.adhoc_times.extend([now] * len(new))

    def _keys_in_progress(self) -> list[Key]:
        # A copy, because the compiler's thread changes the table concurrently.
        return [key for key in list(self._workers.values()) if key is not None]

    def _rejection(self, guide: Guide, report: GuideReport) -> PolicyError | None:
        if report.code:
            return create_error(Code(report.code), report.detail)
        if report.unenforced and self._guidance.unenforced_keywords == "reject":
            first = ", ".join(dict.fromkeys(report.unenforced[:MAX_LISTED_KEYWORDS]))
            count = len(report.unenforced)
            return InvalidRequest(Code.SCHEMA_INVALID, f"{count} keywords can't be enforced, limit 0: {first}")
        if not guide.name and report.compile_ms > self._guidance.max_compile_ms:
            return self._too_slow(f"took {report.compile_ms:.0f} ms to compile")
        return None

    def _too_slow(self, what: str) -> InvalidRequest:
        limit = self._guidance.max_compile_ms
        return InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"guide {what}, limit {limit} ms (max_compile_ms)")

    # The methods below run on the compiler's thread.

    def _run(self) -> None:
        for _ in range(NUM_WORKERS):
            self._spawn()
        while not self._queue.is_closing:
            self._run_once()
        for worker in list(self._workers):
            self._stop(worker)

    def _run_once(self) -> None:
        """One round of the loop. A bug must not end the thread, because guided requests would then wait forever."""
        try:
            self._dispatch_and_receive()
        except Exception as error:
            self._on_error(error)
            time.sleep(RESTART_PAUSE_S)

    def _dispatch_and_receive(self) -> None:
        self._dispatch()
        for key, _ in self._selector.select(self._select_timeout_s()):
            if key.fileobj == self._wakeup_reader:
                os.read(self._wakeup_reader, 4_096)
            else:
                self._on_readable(key.fileobj)  # type: ignore[arg-type]
        self._replace_overdue_workers()
        self._expire_waiters()

    def _spawn(self) -> None:
        with contextlib.suppress(OSError):
            worker = SandboxedWorker(self._tokenizer_info_path, self._guidance.limits)
            self._workers[worker] = None
            self._selector.register(worker, selectors.EVENT_READ)

    def _stop(self, worker: SandboxedWorker) -> None:
        self._selector.unregister(worker)
        worker.kill()
        del self._workers[worker]

    def _dispatch(self) -> None:
        """Give each idle worker a guide; answer guides that the cache has without a worker."""
        while True:
            idle = next((w for w, key in self._workers.items() if key is None and w.is_ready and w.is_alive), None)
            with self._lock:
                if not self._queue.keys or idle is None:
                    return
                key = self._queue.keys.popleft()
                self._workers[idle] = key
            if self._cache.get(*key) is not None or self._cache.load(*key) is not None:
                self._on_report(None)
                self._workers[idle] = None
                self._complete(key)
                continue
            try:
                idle.send(*key, (self._guidance.max_compile_ms + GRACE_MS) / 1_000)
            except BrokenPipeError:  # the worker died while it was idle: the guide did not kill it
                with self._lock:
                    self._workers[idle] = None
                    self._queue.keys.appendleft(key)
                return

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
            worker.is_ready = True
            return
        key, self._workers[worker] = self._workers[worker], None
        if key is not None:
            self._suspects.pop(key, None)
            self._cache.put(*key, report := GuideReport(*message))
            self._on_report(report)
            self._complete(key)

    def _on_exit(self, worker: SandboxedWorker) -> None:
        """Replace a dead worker. Its guide gets a second try, because something else may have killed the workers.

        The guide is rejected if it also kills a worker that sent a message after the first death.
        """
        key = self._workers[worker]
        first_death_s = self._suspects.pop(key, None) if key is not None else None
        if key is None or (first_death_s is not None and worker.last_message_s > first_death_s):
            self._replace(worker, GuideReport(Code.SCHEMA_TOO_COMPLEX.value, "guide stopped the grammar compiler"))
            return
        self._suspects[key] = first_death_s or time.monotonic()
        self._workers[worker] = None
        self._replace(worker, GuideReport())
        with self._lock:
            self._queue.keys.appendleft(key)

    def _replace_overdue_workers(self) -> None:
        now = time.monotonic()
        for worker, key in list(self._workers.items()):
            if now > worker.deadline and (key is not None or not worker.is_ready):
                error = self._too_slow(f"took more than {self._guidance.max_compile_ms + GRACE_MS} ms")
                self._replace(worker, GuideReport(error.code.value, error.detail))

    def _replace(self, worker: SandboxedWorker, report: GuideReport) -> None:
        """Start another worker instead of `worker`; reject the guide that it worked on, for a limited time."""
        key = self._workers[worker]
        self._stop(worker)
        if not worker.is_ready:
            time.sleep(RESTART_PAUSE_S)  # if workers fail to start, this must not become a busy loop
        self._spawn()
        if key is not None:
            self._cache.put(*key, report, is_temporary=True)
            self._complete(key)

    def _expire_waiters(self) -> None:
        """Reject the requests whose deadline has passed, so that none waits forever."""
        with self._lock:
            expired = [waiter for waiter in self._queue.waiters if time.monotonic() > waiter.deadline]
            self._queue.waiters = [waiter for waiter in self._queue.waiters if waiter not in expired]
        for waiter in expired:
            error = Unavailable(Code.GUIDANCE_UNAVAILABLE, "the guide was not compiled in time; try again")
            self._answer(waiter, error)

    def _select_timeout_s(self) -> float | None:
        deadlines = [w.deadline for w, key in self._workers.items() if key is not None or not w.is_ready]
        deadlines += [waiter.deadline for waiter in list(self._queue.waiters)]
        return max(0.01, min(deadlines) - time.monotonic()) if deadlines else None

    def _complete(self, key: Key) -> None:
        """Answer every request for which `key` was the last missing guide."""
        with self._lock:
            for waiter in self._queue.waiters:
                waiter.missing.discard(key)
            done = [waiter for waiter in self._queue.waiters if not waiter.missing]
            self._queue.waiters = [waiter for waiter in self._queue.waiters if waiter.missing]
        for waiter in done:
            self._answer(waiter, self._first_error(waiter.guides))

    def _answer(self, waiter: _Waiter, error: PolicyError | None) -> None:
        """Call back; an exception in one callback must not stop the thread."""
        try:
            waiter.callback(error)
        except Exception as callback_error:
            self._on_error(callback_error)

    def _first_error(self, guides: list[Guide]) -> PolicyError | None:
        try:
            if all(self.lookup(guide) is not None for guide in guides):
                return None
        except PolicyError as error:
            return error
        return Unavailable(Code.GUIDANCE_UNAVAILABLE, "the compiled guide was evicted from the cache; try again")
