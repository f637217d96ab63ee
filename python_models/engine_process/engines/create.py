"""The engines by their kind. Only the one that is asked for is imported."""

from __future__ import annotations

from engine_process.engine import Engine, EngineLoadError


def create_engine(kind: str) -> Engine:
    """An engine that is not loaded yet.

    Raises:
        EngineLoadError: there is no such kind, or this Python lacks its packages.
    """
    try:
        return _create(kind)
    except ImportError as error:
        raise EngineLoadError(f"the {kind} engine can't be imported: {error}") from error


def _create(kind: str) -> Engine:
    if kind == "embedded":
        from engine_process.engines.portable import PortableEngine

        return PortableEngine()
    if kind == "echo":
        from engine_process.engines.echo import EchoEngine

        return EchoEngine()
    if kind == "vllm":
        from engine_process.engines.vllm import VllmEngine

        return VllmEngine()
    if kind == "trtllm-api":
        from engine_process.engines.trtllm_api import TrtllmApiEngine

        return TrtllmApiEngine()
    raise EngineLoadError(f"there is no engine {kind!r}")
