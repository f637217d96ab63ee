"""Guides wait here for their compile, so that one slow guide never holds up a request that needs none."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable

from llm_policy.errors import Code, PolicyError, Unavailable
from llm_policy.guidance.guide import Guide
from llm_policy.guidance.sandbox import GuideSandbox

MAX_WAITING = 64
MAX_VERDICTS = 4_096
Callback = Callable[[PolicyError | None], None]


class GuideDesk:
    """Knows which guides compile; asks the sandbox about new ones on a thread of its own."""

    def __init__(self, sandbox: GuideSandbox) -> None:
        self._sandbox = sandbox
        self._verdicts: OrderedDict[tuple[str, str], PolicyError | None] = OrderedDict()
        self._waiting: queue.Queue[tuple[list[Guide], Callback] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._serve, name="guide-desk", daemon=True)
        self._thread.start()

    def is_proven(self, guide: Guide) -> bool:
        """Whether the guide is known to compile.

        Raises:
            PolicyError: it is known not to.
        """
        if guide.key not in self._verdicts:
            return False
        verdict = self._verdicts[guide.key]
        if verdict is not None:
            raise verdict.with_traceback(None)  # the instance is kept: its traceback must not grow
        return True

    def prove(self, guides: list[Guide], callback: Callback) -> None:
        """Have `guides` compiled, then call `callback` on the desk's thread with the first refusal, or None.

        Raises:
            Unavailable: `guidance_unavailable` when too many wait already.
        """
        try:
            self._waiting.put_nowait((guides, callback))
        except queue.Full:
            raise Unavailable(
                Code.GUIDANCE_UNAVAILABLE, f"{MAX_WAITING} requests already wait for new guides, limit {MAX_WAITING}"
            ) from None

    def register(self, guides: list[Guide]) -> None:
        """Compile `guides` now; every one must pass.

        Raises:
            PolicyError: names the registered guide that is refused and why.
        """
        done: queue.SimpleQueue[PolicyError | None] = queue.SimpleQueue()
        for guide in guides:
            self.prove([guide], done.put)
            if (refusal := done.get()) is not None:
                raise type(refusal)(refusal.code, f"registered schema {guide.schema_id}: {refusal.detail}")

    def close(self) -> None:
        """Stop the thread and the sandbox."""
        self._waiting.put(None)
        self._thread.join(timeout=10)
        self._sandbox.close()

    def _serve(self) -> None:
        while (item := self._waiting.get()) is not None:
            guides, callback = item
            refusals = (self._verdict(guide) for guide in guides)
            callback(next((refusal for refusal in refusals if refusal is not None), None))

    def _verdict(self, guide: Guide) -> PolicyError | None:
        if guide.key in self._verdicts:
            return self._verdicts[guide.key]
        verdict = self._sandbox.check(guide.engine_type, guide.engine_text)
        if not isinstance(verdict, Unavailable):
            self._verdicts[guide.key] = verdict
            if len(self._verdicts) > MAX_VERDICTS:
                self._verdicts.popitem(last=False)
        return verdict
