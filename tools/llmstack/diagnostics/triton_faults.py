"""Faults of Triton with which one request stops the server or uses it up, and the first release without each.

Sources: NVIDIA's security bulletins of 2025 and 2026, the pull requests of triton-inference-server, and a real server
of release 24.10, which each of the first six stops (five of them in `tests/docker/test_crashes.py`). A bulletin says
little of a fault, so a release here may be another one than the first with the fix.
"""

from __future__ import annotations

import importlib.metadata
from typing import NamedTuple

from llmstack.diagnostics.check_result import CheckResult, CheckStatus
from llmstack.diagnostics.deployment import Deployment
from llmstack.diagnostics.image_tag import current_image_tag

CHECK = "triton faults"
TritonRelease = tuple[int, int]
"""Year and month of an image's tag, such as (25, 10)."""


class TritonFault(NamedTuple):
    """A request that stops a server or uses it up, until release `fixed_in`. Some pass the gateway."""

    request: str
    fixed_in: TritonRelease
    passes_gateway: bool = False


TRITON_FAULTS = (
    TritonFault("a gRPC call that its client cancels near its end", (25, 4), passes_gateway=True),
    TritonFault("deeply nested JSON", (25, 5)),
    TritonFault("a shape that overflows", (25, 6)),
    TritonFault("classification of a text output", (25, 8)),
    TritonFault("an accept-encoding header with a large q value", (26, 2)),
    TritonFault("triton_grpc_error metadata on a stream", (26, 4)),
    TritonFault("hundreds of thousands of HTTP chunks", (25, 10)),
    TritonFault("a highly compressed body", (26, 4)),
)

# The releases in the PyPI package nvidia-pytriton, by the first two numbers of its version.
_PACKAGED: dict[tuple[int, int], TritonRelease] = {(0, 7): (24, 10)}


def faults_of(release: TritonRelease) -> list[TritonFault]:
    """The faults that this release still has, those that are fixed first at the front."""
    return sorted((fault for fault in TRITON_FAULTS if release < fault.fixed_in), key=lambda fault: fault.fixed_in)


def check_triton_faults(deployment: Deployment) -> CheckResult:
    """Which known faults the server has. The gateway refuses most of these requests."""
    release = _release(deployment)
    if release is None:
        return CheckResult(CHECK, CheckStatus.SKIPPED, "the server's release is unknown")
    name = "{}.{:02d}".format(*release)
    faults = faults_of(release)
    if not faults:
        return CheckResult(CHECK, CheckStatus.OK, f"{name}: none known")
    listed = ", ".join(f"{fault.request} ({fault.fixed_in[0]}.{fault.fixed_in[1]:02d})" for fault in faults)
    text = f"one request can stop a server of {name}: {listed}; in parentheses the release without the fault"
    next_step = "let clients reach it through the gateway only, which refuses these"
    if passing := [fault.request for fault in faults if fault.passes_gateway]:
        next_step += f", but not {', '.join(passing)}: for that llmstack gateway render --no-grpc, or a newer release"
    return CheckResult(CHECK, CheckStatus.WARN, text, next_step)


def _release(deployment: Deployment) -> TritonRelease | None:
    """The release of the image, else of the PyPI package; None when neither is known."""
    tag = deployment.image or current_image_tag()
    if tag is not None:
        return tag.year, tag.month
    try:
        major, minor, *_ = importlib.metadata.version("nvidia-pytriton").split(".")
    except importlib.metadata.PackageNotFoundError:
        return None
    return _PACKAGED.get((int(major), int(minor)))
