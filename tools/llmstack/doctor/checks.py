"""The checks: each looks at one thing and changes nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from llm_policy.release import Release, ReleaseError
from llmstack.doctor.finding import Finding, Verdict
from llmstack.doctor.image_tag import ImageTag, tag_of_this_image
from llmstack.events.endpoint import read_endpoints
from llmstack.server_binary import find_server_binary
from llmstack.server_command import ENGINES
from llmstack.server_error import ServerStartError
from llmstack.supervision.state_directory import StateDirectory

MIN_SHARED_MEMORY_BYTES = 256 << 20
MIN_FREE_DISK_BYTES = 1 << 30
MIN_MEMORY_HEADROOM = 0.25
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,memory.used,driver_version",
    "--format=csv,noheader,nounits",
)


class Subject(NamedTuple):
    """What is examined; `image` is what the operator says of the image, else it is asked itself."""

    release_dir: Path
    engine: str
    state_dir: Path
    host: str
    ports: Mapping[str, int]
    image: ImageTag | None
    reaches_webhooks: bool
    environment: Mapping[str, str]


def check_image(subject: Subject) -> Finding:
    """Whether the image's TensorRT-LLM can serve at all."""
    tag = subject.image or tag_of_this_image()
    if tag is None:
        return Finding("image", Verdict.SKIPPED, "not one of NVIDIA's images, or it does not say which")
    version = tag.tensorrt_llm
    what = f"{tag}: TensorRT-LLM {version[0]}.{version[1]}" if version else f"{tag}: unknown TensorRT-LLM"
    if not (faults := tag.faults()):
        return Finding("image", Verdict.OK, f"{what}: guided decoding, Qwen3, Blackwell")
    verdict = Verdict.FAIL if subject.engine == "tensorrtllm" else Verdict.WARN
    return Finding("image", verdict, f"{what}: {'; '.join(faults)}", "use a tag from 25.09 to 26.07, 25.10 by default")


def check_server(subject: Subject) -> Finding:
    """Whether there is a tritonserver with the engine's backend."""
    try:
        binary = find_server_binary()
        binary.check_backend(ENGINES[subject.engine].backend)
    except ServerStartError as error:
        return Finding("server", Verdict.FAIL, str(error), error.next_step)
    return Finding("server", Verdict.OK, f"{binary.path}, backend {ENGINES[subject.engine].backend}")


def check_gpu(subject: Subject) -> Finding:
    """GPU, driver and the memory that is left."""
    needs_one = subject.engine == "tensorrtllm"
    lines = _ask_nvidia()
    if not lines:
        verdict = Verdict.FAIL if needs_one else Verdict.SKIPPED
        return Finding(
            "gpu", verdict, "no NVIDIA GPU answers", "give the container GPUs: --gpus all" if needs_one else ""
        )
    name, total, used, driver = (cell.strip() for cell in lines[0].split(","))
    free = 1 - int(used) / int(total)
    text = f"{len(lines)} × {name}, {int(total):,} MiB, {free:.0%} free, driver {driver}"
    if needs_one and free < MIN_MEMORY_HEADROOM:
        return Finding("gpu", Verdict.WARN, text, "see what runs there, and llmstack capacity")
    return Finding("gpu", Verdict.OK, text)


def check_shared_memory(subject: Subject) -> Finding:
    """Triton's Python models talk through /dev/shm; a container has 64 MiB of it unless told otherwise."""
    size = shutil.disk_usage("/dev/shm").total  # noqa: S108 - POSIX shared memory, not a place for files
    text = f"{size >> 20:,} MiB in /dev/shm"
    if size < MIN_SHARED_MEMORY_BYTES:
        return Finding("shared memory", Verdict.FAIL, text, "docker run --shm-size 1g")
    return Finding("shared memory", Verdict.OK, text)


def check_release(subject: Subject) -> Finding:
    """Whether every file of the release is the one that its manifest names."""
    try:
        release = Release.open(subject.release_dir).verify_files()
    except ReleaseError as error:
        return Finding("release", Verdict.FAIL, str(error), f"llmstack manifest verify {subject.release_dir}")
    return Finding("release", Verdict.OK, f"{release.manifest.engine.model}, engine {release.manifest.engine.hash}")


def check_state_directory(subject: Subject) -> Finding:
    """Whether the state directory is ours, can be written and has room."""
    try:
        with StateDirectory(subject.state_dir, lock_patience_s=0):
            free = shutil.disk_usage(subject.state_dir).free
    except ServerStartError as error:
        return Finding("state directory", Verdict.FAIL, str(error), error.next_step)
    text = f"{subject.state_dir}, {free >> 20:,} MiB free"
    if free < MIN_FREE_DISK_BYTES:
        return Finding("state directory", Verdict.WARN, text, "nothing is served that can't be recorded: make room")
    return Finding("state directory", Verdict.OK, text)


def check_webhooks(subject: Subject) -> Finding:
    """Whether alerts have somewhere to go, and their secrets can be read; with `--reach`, whether somebody listens."""
    try:
        endpoints = read_endpoints(subject.environment)
    except ServerStartError as error:
        return Finding("webhooks", Verdict.FAIL, str(error), error.next_step)
    if not endpoints:
        return Finding(
            "webhooks", Verdict.WARN, "none: alerts wait in the ledger", "set LLMSTACK_READINESS_WEBHOOK_URL"
        )
    faults = [fault for each in endpoints if subject.reaches_webhooks and (fault := _unreachable(each.url))]
    names = ", ".join(each.name for each in endpoints)
    if faults:
        return Finding("webhooks", Verdict.WARN, "; ".join(faults), "events are kept and sent later")
    return Finding("webhooks", Verdict.OK, names)


def check_ports(subject: Subject) -> Finding:
    """Whether every port is free."""
    taken = [f"{name} {port}" for name, port in subject.ports.items() if port and not _is_free(subject.host, port)]
    if taken:
        return Finding("ports", Verdict.FAIL, f"taken on {subject.host}: {', '.join(taken)}", "choose others, or 0")
    return Finding("ports", Verdict.OK, ", ".join(f"{name} {port or 'any'}" for name, port in subject.ports.items()))


CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    check_image,
    check_server,
    check_gpu,
    check_shared_memory,
    check_release,
    check_state_directory,
    check_webhooks,
    check_ports,
)


def examine(subject: Subject) -> list[Finding]:
    """Every finding, in order."""
    return [check(subject) for check in CHECKS]


def _ask_nvidia() -> list[str]:
    if shutil.which(_NVIDIA_SMI[0]) is None:
        return []
    try:
        done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _unreachable(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=3):
            return ""
    except OSError as error:
        return f"{parts.scheme}://{parts.hostname}:{port} can't be reached: {error.strerror or error}"


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True
