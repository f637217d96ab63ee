"""Guides wait here until it is known whether they are safe, so that a slow one holds up nobody else.

One thread owns the sandbox's children, gives each one guide at a time, and answers whoever waits for it. Requests for
the same new guide wait for one compile.
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

from llm_policy.errors import Code, InvalidRequest, PolicyError, Unavailable
from llm_policy.guidance.compile.guide_cache import GuideCache, Key
from llm_policy.guidance.compile.guide_report import GuidePlan, GuideReport
from llm_policy.guidance.compile.sandbox import START_TIMEOUT_S, SandboxChild
from llm_policy.guidance.guide import Guide
from llm_policy.release.manifest import Guidance

NUM_CHILDREN = 2
MAX_WAITING_GUIDES = 64
MAX_WAITING_REQUESTS = 512
# Planning and probing come on top of the compile that `max_compile_ms` bounds.
GRACE_MS = 2_000
FIRST_FINDINGS = 5
MAX_WAIT_S = 9.0
RESTART_PAUSE_S = 0.5

Callback = Callable[[PolicyError | None], None]


@dataclass(eq=False)
class _Request:
    """Somebody who waits for some guides."""

    missing: set[Key]
    guides: list[Guide]
    callback: Callback
    deadline: float


@dataclass(eq=False)
class _Desk:
    """What the desk's thread works on; guarded by the desk's lock."""

    queue: deque[Key] = field(default_factory=deque)
    requests: list[_Request] = field(default_factory=list)
    adhoc_times: deque[float] = field(default_factory=deque)
    is_closing: bool = False


class GuideCompiler:
    """Verdicts on guides. `verdict` never waits; `prove` calls back on the desk's own thread."""

    def __init__(
        self,
        guidance: Guidance,
        tokenizer_info_path: Path,
        cache: GuideCache,
        on_fault: Callable[[BaseException], object] = lambda error: None,
        on_verdict: Callable[[GuideReport | None], object] = lambda report: None,
    ) -> None:
        """`on_verdict` hears of each guide that was new here: its report once compiled, None when a file had it."""
        self._on_verdict = on_verdict
        self._guidance = guidance
        self._on_fault = on_fault
        self._tokenizer_info_path = tokenizer_info_path
        self._cache = cache
        self._desk = _Desk()
        self._lock = threading.Lock()
        self._bell_out, self._bell_in = os.pipe()
        self._children: dict[SandboxChild, Key | None] = {}
        self._suspects: dict[Key, float] = {}  # guides whose child died, and when
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="guide-desk", daemon=True)
        self._thread.start()

    def verdict(self, guide: Guide) -> GuidePlan | None:
        """What the engine gets for `guide`; None when nobody knows yet.

        Raises:
            PolicyError: it is refused.
        """
        report = self._cache.get(guide.kind, guide.text)
        if report is None:
            return None
        if (refusal := self._refusal(guide, report)) is not None:
            raise refusal
        return GuidePlan(report.engine_type, report.engine_text, guide.name or report.schema_id)

    def prove(self, guides: list[Guide], callback: Callback) -> None:
        """Find out about `guides`, then call back with the first refusal, or None.

        Raises:
            Unavailable: `guidance_unavailable`, when too many wait or too many new ones came within a minute.
        """
        with self._lock:
            new = {(guide.kind, guide.text) for guide in guides} - set(self._desk.queue) - set(self._in_work())
            self._check_room(new, is_adhoc=not all(guide.name for guide in guides))
            self._desk.queue.extend(new)
            missing = {(guide.kind, guide.text) for guide in guides}
            # A registered schema may wait for the children to start; a client may not.
            patience_s = START_TIMEOUT_S if all(guide.name for guide in guides) else MAX_WAIT_S
            self._desk.requests.append(_Request(missing, guides, callback, time.monotonic() + patience_s))
        os.write(self._bell_in, b"!")

    def register(self, guides: list[Guide]) -> None:
        """Prove `guides` now, one after another; those in the file need no child, which makes a restart fast.

        Raises:
            PolicyError: names the registered guide that is refused and why.
        """
        for guide in guides:
            report = self._cache.fetch(guide.kind, guide.text)
            refusal = self._refusal(guide, report) if report is not None else self._prove_now(guide)
            if refusal is not None:
                raise type(refusal)(refusal.code, f"registered schema {guide.name}: {refusal.detail}")

    def _prove_now(self, guide: Guide) -> PolicyError | None:
        done = threading.Event()
        refusals: list[PolicyError | None] = []
        self.prove([guide], lambda refusal: (refusals.append(refusal), done.set())[0])  # type: ignore[func-returns-value]
        done.wait()
        return refusals[0]

    def close(self) -> None:
        """Stop the thread and the children."""
        self._desk.is_closing = True
        os.write(self._bell_in, b"!")
        self._thread.join(timeout=10)

    def _check_room(self, new: set[Key], *, is_adhoc: bool) -> None:
        desk, now = self._desk, time.monotonic()
        if len(desk.queue) + len(new) > MAX_WAITING_GUIDES or len(desk.requests) >= MAX_WAITING_REQUESTS:
            raise Unavailable(
                Code.GUIDANCE_UNAVAILABLE, f"{len(desk.queue)} new guides already wait, limit {MAX_WAITING_GUIDES}"
            )
        while desk.adhoc_times and desk.adhoc_times[0] < now - 60:
            desk.adhoc_times.popleft()
        limit = self._guidance.max_adhoc_per_minute
        if is_adhoc and new and len(desk.adhoc_times) + len(new) > limit:
            raise Unavailable(
                Code.GUIDANCE_UNAVAILABLE,
                f"{len(desk.adhoc_times)} new guides came within a minute, limit {limit} (max_adhoc_per_minute)",
            )
        if is_adhoc:
            desk.adhoc_times.extend([now] * len(new))

    def _in_work(self) -> list[Key]:
        # A copy: the desk's thread changes the table meanwhile.
        return [key for key in list(self._children.values()) if key is not None]

    def _refusal(self, guide: Guide, report: GuideReport) -> PolicyError | None:
        if report.code:
            kind = Unavailable if report.code == Code.GUIDANCE_UNAVAILABLE.value else InvalidRequest
            return kind(Code(report.code), report.detail)
        if report.unenforced and self._guidance.unenforced_keywords == "reject":
            first = ", ".join(dict.fromkeys(report.unenforced[:FIRST_FINDINGS]))
            count = len(report.unenforced)
            return InvalidRequest(Code.SCHEMA_INVALID, f"{count} keywords can't be enforced, limit 0: {first}")
        if not guide.name and report.compile_ms > self._guidance.max_compile_ms:
            return self._too_slow(f"took {report.compile_ms:.0f} ms to compile")
        return None

    def _too_slow(self, what: str) -> InvalidRequest:
        limit = self._guidance.max_compile_ms
        return InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"guide {what}, limit {limit} ms (max_compile_ms)")

    # What follows runs on the desk's thread.

    def _run(self) -> None:
        for _ in range(NUM_CHILDREN):
            self._hire()
        while not self._desk.is_closing:
            self._try_turn()
        for child in list(self._children):
            self._dismiss(child)

    def _try_turn(self) -> None:
        """A fault of ours must not end the desk: guided requests would wait for ever."""
        try:
            self._turn()
        except Exception as error:
            self._on_fault(error)
            time.sleep(RESTART_PAUSE_S)

    def _turn(self) -> None:
        self._hand_out()
        for key, _ in self._selector.select(self._patience_s()):
            if key.fileobj == self._bell_out:
                os.read(self._bell_out, 4_096)
            else:
                self._listen(key.fileobj)  # type: ignore[arg-type]
        self._dismiss_late()
        self._send_away()

    def _hire(self) -> None:
        with contextlib.suppress(OSError):
            child = SandboxChild(self._tokenizer_info_path, self._guidance.limits)
            self._children[child] = None
            self._selector.register(child, selectors.EVENT_READ)

    def _dismiss(self, child: SandboxChild) -> None:
        self._selector.unregister(child)
        child.kill()
        del self._children[child]

    def _hand_out(self) -> None:
        """Give each idle child a guide that nobody knows; those in the file are answered at once."""
        while True:
            idle = next((c for c, key in self._children.items() if key is None and c.is_ready and c.is_alive), None)
            with self._lock:
                if not self._desk.queue or idle is None:
                    return
                key = self._desk.queue.popleft()
                self._children[idle] = key
            if self._cache.get(*key) is not None or self._cache.fetch(*key) is not None:
                self._on_verdict(None)
                self._children[idle] = None
                self._settle(key)
                continue
            try:
                idle.ask(*key, (self._guidance.max_compile_ms + GRACE_MS) / 1_000)
            except BrokenPipeError:  # it died idle, which is not this guide's fault
                with self._lock:
                    self._children[idle] = None
                    self._desk.queue.appendleft(key)
                return

    def _listen(self, child: SandboxChild) -> None:
        try:
            message = child.receive()
        except EOFError:
            self._bury(child)
            return
        if message is None:
            return
        child.spoke_s = time.monotonic()
        if not child.is_ready:
            child.is_ready = True
            return
        key, self._children[child] = self._children[child], None
        if key is not None:
            self._suspects.pop(key, None)
            self._cache.put(*key, report := GuideReport(*message))
            self._on_verdict(report)
            self._settle(key)

    def _bury(self, child: SandboxChild) -> None:
        """A child died. Something else may have killed it, and others with it: its guide is to blame when it kills one
        that was alive after the first death.
        """
        key = self._children[child]
        first_death_s = self._suspects.pop(key, None) if key is not None else None
        if key is None or (first_death_s is not None and child.spoke_s > first_death_s):
            self._replace(child, GuideReport(Code.SCHEMA_TOO_COMPLEX.value, "guide stopped the grammar compiler"))
            return
        self._suspects[key] = first_death_s or time.monotonic()
        self._children[child] = None
        self._replace(child, GuideReport())
        with self._lock:
            self._desk.queue.appendleft(key)

    def _dismiss_late(self) -> None:
        now = time.monotonic()
        for child, key in list(self._children.items()):
            if now > child.deadline and (key is not None or not child.is_ready):
                error = self._too_slow(f"took more than {self._guidance.max_compile_ms + GRACE_MS} ms")
                self._replace(child, GuideReport(error.code.value, error.detail))

    def _replace(self, child: SandboxChild, report: GuideReport) -> None:
        """A child died or overran: its guide is to blame, for a while; another child takes its place."""
        key = self._children[child]
        self._dismiss(child)
        if not child.is_ready:
            time.sleep(RESTART_PAUSE_S)  # whatever keeps children from starting must not make this a busy loop
        self._hire()
        if key is not None:
            self._cache.put(*key, report, brief=True)
            self._settle(key)

    def _send_away(self) -> None:
        """Nobody waits for ever, whatever becomes of the children."""
        with self._lock:
            too_long = [r for r in self._desk.requests if time.monotonic() > r.deadline]
            self._desk.requests = [r for r in self._desk.requests if r not in too_long]
        for request in too_long:
            self._answer(request, Unavailable(Code.GUIDANCE_UNAVAILABLE, "no verdict on this guide in time; try again"))

    def _patience_s(self) -> float | None:
        deadlines = [child.deadline for child, key in self._children.items() if key is not None or not child.is_ready]
        deadlines += [request.deadline for request in list(self._desk.requests)]
        return max(0.01, min(deadlines) - time.monotonic()) if deadlines else None

    def _settle(self, key: Key) -> None:
        """Answer every request for which `key` was the last unknown guide."""
        with self._lock:
            for request in self._desk.requests:
                request.missing.discard(key)
            done = [request for request in self._desk.requests if not request.missing]
            self._desk.requests = [request for request in self._desk.requests if request.missing]
        for request in done:
            self._answer(request, self._first_refusal(request.guides))

    def _answer(self, request: _Request, refusal: PolicyError | None) -> None:
        """One answer that can't be given must not end the desk for all others."""
        try:
            request.callback(refusal)
        except Exception as error:
            self._on_fault(error)

    def _first_refusal(self, guides: list[Guide]) -> PolicyError | None:
        try:
            if all(self.verdict(guide) is not None for guide in guides):
                return None
        except PolicyError as refusal:
            return refusal
        return Unavailable(Code.GUIDANCE_UNAVAILABLE, "the verdict on this guide was lost; try again")
