"""An engine behind its socket in this process, so that a test can change its parts, and a client of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from engine_process.engine import Engine, EngineSettings
from engine_process.server import EngineIdentity, EngineServer
from engine_process.socket_path import listen
from engine_process.usage_journal import FILE_NAME, UsageJournal

HASH = "sha256:test"


class RunningEngine(NamedTuple):
    """A server on another thread; `stop_soon` asks it to stop."""

    server: EngineServer
    stop_soon: Callable[[], object]


@contextmanager
def running_engine(
    engine: Engine,
    state_dir: Path,
    release: Path,
    *,
    engine_hash: str = HASH,
    max_batch_size: int = 4,
    max_waiting: int = 64,
    max_answer_s: float = 300.0,
) -> Iterator[RunningEngine]:
    """Serve `engine` on a thread of its own."""
    started: list[RunningEngine] = []
    is_listening = threading.Event()

    async def serve() -> None:
        capabilities = await engine.load(EngineSettings(release, max_batch_size, 5.0, {}))
        server = EngineServer(
            engine,
            EngineIdentity("test", engine_hash, "w4a8"),
            capabilities,
            max_waiting=max_waiting,
            max_answer_s=max_answer_s,
            journal=UsageJournal(state_dir / FILE_NAME, _log),
            log=_log,
        )
        loop = asyncio.get_running_loop()
        started.append(RunningEngine(server, lambda: loop.call_soon_threadsafe(server.stop)))
        listener = listen(state_dir)
        is_listening.set()
        await server.serve(listener)
        await engine.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="engine-server", daemon=True)
    thread.start()
    assert is_listening.wait(60)
    try:
        yield started[0]
    finally:
        with suppress(RuntimeError):  # the loop has ended already
            started[0].stop_soon()
        thread.join(30)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
