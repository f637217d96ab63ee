"""`python -m engine_process`: load one release's engine and serve it on a Unix socket until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from engine_process.engine import EngineLoadError, EngineSettings
from engine_process.engines.create import create_engine
from engine_process.server import EngineIdentity, EngineServer
from engine_process.socket_path import listen
from engine_process.usage_journal import FILE_NAME, UsageJournal

# The manifest's defaults.
MAX_BATCH_SIZE, MAX_ANSWER_S, MAX_QUEUE_SIZE, MAX_MASK_MS = 4, 300.0, 64, 5.0
EXIT_CANT_LOAD, EXIT_DIED = 3, 4


def main() -> int:
    """Serve until SIGTERM; the exit status."""
    arguments = _parse_arguments()
    return asyncio.run(_serve(arguments))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engine_process", description=__doc__)
    parser.add_argument("kind", help="the engine")
    parser.add_argument("release", type=Path, help="the release, a directory with manifest.json")
    parser.add_argument("state_dir", type=Path, help="where the socket and the usage journal are")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the engine")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> int:
    manifest = json.loads((arguments.release / "manifest.json").read_bytes())
    engine_limits = manifest.get("engine", {})
    settings = EngineSettings(
        release=arguments.release,
        max_batch_size=int(engine_limits.get("max_batch_size", MAX_BATCH_SIZE)),
        max_mask_ms=float(manifest.get("guidance", {}).get("max_mask_ms", MAX_MASK_MS)),
        options=dict(option.partition("=")[::2] for option in arguments.option),
    )
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    began = time.monotonic()
    try:
        engine = create_engine(arguments.kind)
        capabilities = await engine.load(settings)
    except EngineLoadError as error:
        _log(f"error: {error}")
        return EXIT_CANT_LOAD
    _log(f"the {arguments.kind} engine is loaded after {time.monotonic() - began:.1f} s")
    server = EngineServer(
        engine,
        EngineIdentity(arguments.kind, engine_limits.get("hash", ""), engine_limits.get("quantisation", "")),
        capabilities,
        max_waiting=int(engine_limits.get("max_queue_size", MAX_QUEUE_SIZE)),
        max_answer_s=float(engine_limits.get("max_answer_s", MAX_ANSWER_S)),
        journal=UsageJournal(arguments.state_dir / FILE_NAME, _log),
        log=_log,
    )
    serving = asyncio.create_task(server.serve(listen(arguments.state_dir)))
    signalled = asyncio.create_task(stopping.wait())
    await asyncio.wait([serving, signalled], return_when=asyncio.FIRST_COMPLETED)
    server.stop()
    await serving
    signalled.cancel()
    await engine.close()
    return EXIT_DIED if server.has_died else 0


def _log(line: Any) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
