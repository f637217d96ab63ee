"""Names of what the bench measures; they are the keys of its report."""

from __future__ import annotations

from llm_policy.guidance.backends.names import BACKENDS, LLGUIDANCE, XGRAMMAR

XGRAMMAR_BASELINE, LLGUIDANCE_BASELINE = f"{XGRAMMAR}_baseline", f"{LLGUIDANCE}_baseline"
"""The libraries' own schema converters, without the policy's planning and limits."""
_BASELINES = {XGRAMMAR: XGRAMMAR_BASELINE, LLGUIDANCE: LLGUIDANCE_BASELINE}


def converter_names(backend: str | None, *, with_baseline: bool) -> list[str]:
    """The converters of one backend, or of all; the policy's first."""
    backends = [backend] if backend else list(BACKENDS)
    return [*backends, *(_BASELINES[name] for name in backends if with_baseline)]
