"""Names of the structured-output backends, and which of them the engine takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

LLGUIDANCE, XGRAMMAR = "llguidance", "xgrammar"
BACKENDS = (LLGUIDANCE, XGRAMMAR)
"""The better one first: llguidance counts without cost and enforces more keywords (see docs/guides.md)."""

ENVIRONMENT_VARIABLE = "LLMSTACK_GUIDE_BACKENDS"
"""The backends that the engine takes, separated by commas; whoever starts the server sets it."""

DEFAULT = XGRAMMAR
"""Without the variable the engine is TensorRT-LLM's C++ backend, which takes XGrammar's guides only."""


class UnavailableBackend(ValueError):
    """The release or the environment names a backend that does not exist or that the engine does not take."""


def usable_backends(
    wanted: Literal["auto", "xgrammar", "llguidance"], environment: Mapping[str, str]
) -> tuple[str, ...]:
    """The backends to try for each guide, the preferred one first.

    Raises:
        UnavailableBackend: the engine does not take the backend that the manifest names.
    """
    taken = [name.strip() for name in environment.get(ENVIRONMENT_VARIABLE, DEFAULT).split(",") if name.strip()]
    unknown = [name for name in taken if name not in BACKENDS]
    if unknown or not taken:
        raise UnavailableBackend(
            f"{ENVIRONMENT_VARIABLE} is {','.join(taken) or 'empty'}, allowed are names out of {', '.join(BACKENDS)}"
        )
    if wanted == "auto":
        return tuple(name for name in BACKENDS if name in taken)
    if wanted not in taken:
        raise UnavailableBackend(
            f"guidance.backend is {wanted}, but this engine takes {', '.join(taken)} ({ENVIRONMENT_VARIABLE})"
        )
    return (wanted,)
