"""The engine behind `ensemble_stream`: an engine process, or TensorRT-LLM's C++ backend in this server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from engine_process.client import EngineClient, Listener
from engine_process.messages import PROTOCOL_VERSION, Capabilities, Generate, Hello, Welcome
from engine_process.usage_journal import FILE_NAME, UsageJournal
from llm_policy.release.manifest import Manifest
from portable_engine.guide_types import XGRAMMAR_TYPES

TENSORRT_LLM_ADDRESS = "LLMSTACK_TENSORRTLLM_ADDRESS"


class StreamEngine(Protocol):
    """Generates tokens for streams. `run` and the listeners run on one asyncio loop; `generate` on any thread."""

    @property
    def welcome(self) -> Welcome | None:
        """Which engine answers; None while there is none."""

    async def run(self) -> None:
        """Serve until the task is cancelled."""

    def generate(self, request: Generate, listener: Listener) -> None:
        """Begin a request. It gets an id, which is 0 before, and can be aborted from then on."""

    def abort(self, request_id: int) -> None:
        """End a request; its listener is not called again."""

    def cancel(self, request_id: int) -> None:
        """End a request; its listener still receives its end."""


def create_stream_engine(
    environment: Mapping[str, str], state_dir: Path, manifest: Manifest, boot_id: str, log: Callable[[str], None]
) -> StreamEngine:
    """The engine that `environment` names: `$LLMSTACK_TENSORRTLLM_ADDRESS`, else the process in `state_dir`."""
    address, engine = environment.get(TENSORRT_LLM_ADDRESS), manifest.engine
    if not address:
        return EngineClient(state_dir, Hello(PROTOCOL_VERSION, engine.hash, boot_id), log)
    # NVIDIA's gRPC client is imported only where it is needed.
    from ensemble_stream.tensorrt_llm.backend_client import BackendClient

    capabilities = Capabilities(engine.max_batch_size, 0, 0, list(XGRAMMAR_TYPES))
    identity = ("tensorrtllm", os.getpid(), time.time(), capabilities)
    welcome = Welcome(PROTOCOL_VERSION, engine.hash, engine.quantisation, *identity)
    journal = UsageJournal(state_dir / FILE_NAME, log)
    return BackendClient(address, welcome, engine.max_answer_s, boot_id, journal, log)
