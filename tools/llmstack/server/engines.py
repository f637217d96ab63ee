"""The engines that a server can start with. A light module: the options of commands are made of it."""

from __future__ import annotations

from typing import NamedTuple

from llm_policy.guidance.backends.names import LLGUIDANCE, XGRAMMAR

DEFAULT_START_TIMEOUT_S = 300.0


class EngineConfig(NamedTuple):
    """Where an engine runs: in an engine process, else in tritonserver by its backend `backend`.

    `config` is the configuration of the models that selects it (None is config.pbtxt). `guide_backends` are the
    structured-output backends that it takes.
    """

    config: str | None
    backend: str
    guide_backends: tuple[str, ...]

    @property
    def has_process(self) -> bool:
        """Whether it runs in a process of its own."""
        return self.config is not None


_PROCESS = "engine_process"
ENGINES = {
    "embedded": EngineConfig(_PROCESS, "python", (LLGUIDANCE, XGRAMMAR)),
    "echo": EngineConfig(_PROCESS, "python", (LLGUIDANCE, XGRAMMAR)),
    "vllm": EngineConfig(_PROCESS, "python", (LLGUIDANCE,)),
    "trtllm-api": EngineConfig(_PROCESS, "python", (LLGUIDANCE,)),
    "tensorrtllm": EngineConfig(None, "tensorrtllm", (XGRAMMAR,)),
}


# TensorRT-LLM's C++ backend either answers once or streams.
TENSORRT_LLM = "tensorrtllm"
UNARY, DECOUPLED = TENSORRT_LLM_MODES = ("unary", "decoupled")
