"""The checks: each looks at one thing and changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from llm_policy.release.release import Release, ReleaseError
from llmstack.capacity.memory_plan import CapacityError
from llmstack.diagnostics.check_result import CheckResult, CheckStatus
from llmstack.diagnostics.gpu_memory import HEADROOM, plan_memory
from llmstack.diagnostics.gpus import Gpu, driver_fault, find_gpus
from llmstack.diagnostics.image_tag import ImageTag, tag_of_this_image
from llmstack.events.endpoint import read_endpoints
from llmstack.server.binary import find_server_binary
from llmstack.server.command import ENGINES
from llmstack.server.error import ServerStartError
from llmstack.supervision.state_directory import is_taken, owner_pid
from portable_engine.environment import unsupported_reason

MIN_SHARED_MEMORY_BYTES = 256 << 20
MIN_FREE_DISK_BYTES = 1 << 30
MIN_MEMORY_HEADROOM = 0.25
# Where model_repository/tensorrt_llm/config.pbtxt tells TensorRT-LLM to look.
TENSORRT_MOUNTS = tuple(
    Path("/workspace") / name
    for name in ("engine/config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_info.json")
)


class Subject(NamedTuple):
    """What is examined; `image` is what the operator says of the image, else it is asked itself."""

    release_dir: Path
    engine: str
    state_dir: Path
    model_repository: Path
    host: str
    ports: Mapping[str, int]
    image: ImageTag | None
    reaches_webhooks: bool
    environment: Mapping[str, str]


def check_image(subject: Subject) -> CheckResult:
    """Whether the image's TensorRT-LLM can serve at all."""
    tag = subject.image or tag_of_this_image()
    if tag is None:
        return CheckResult("image", CheckStatus.SKIPPED, "not one of NVIDIA's images, or it does not say which")
    next_step = "use a tag from 25.09 to 26.07, 25.10 by default"
    if faults := tag.faults():
        verdict = CheckStatus.FAIL if subject.engine == "tensorrtllm" else CheckStatus.WARN
        return CheckResult("image", verdict, f"{tag.description}: {'; '.join(faults + tag.doubts())}", next_step)
    if doubts := tag.doubts():
        return CheckResult("image", CheckStatus.WARN, f"{tag.description}: {'; '.join(doubts)}", next_step)
    return CheckResult("image", CheckStatus.OK, f"{tag.description}: guided decoding, Qwen3, Blackwell")


def check_engine(subject: Subject) -> CheckResult:
    """Whether the environment has what the engine runs on."""
    if subject.engine != "embedded":
        return CheckResult("engine", CheckStatus.OK, subject.engine)
    if lack := unsupported_reason():
        text = f"embedded: {lack}, so this engine is not available here; TensorRT-LLM's is not concerned"
        return CheckResult(
            "engine", CheckStatus.FAIL, text, "--engine tensorrtllm with a TensorRT engine, or a newer image"
        )
    return CheckResult("engine", CheckStatus.OK, "embedded")


def check_server(subject: Subject) -> CheckResult:
    """Whether there is a tritonserver with the engine's backend."""
    try:
        binary = find_server_binary()
        binary.check_backend(ENGINES[subject.engine].backend)
    except ServerStartError as error:
        return CheckResult("server", CheckStatus.FAIL, str(error), error.next_step)
    return CheckResult("server", CheckStatus.OK, f"{binary.path}, backend {ENGINES[subject.engine].backend}")


def check_gpu(subject: Subject) -> CheckResult:
    """Every GPU: its driver and the memory that is left."""
    needs_one = subject.engine == "tensorrtllm"
    gpus = find_gpus()
    if not gpus:
        verdict = CheckStatus.FAIL if needs_one else CheckStatus.SKIPPED
        return CheckResult(
            "gpu", verdict, "no NVIDIA GPU answers", "give the container GPUs: --gpus all" if needs_one else ""
        )
    text = f"{'; '.join(map(str, gpus))}; driver {gpus[0].driver}"
    if fault := driver_fault(gpus[0]):
        # Only data centre GPUs run a newer CUDA than their driver's, by a package that NVIDIA's images carry.
        verdict = CheckStatus.FAIL if needs_one and any("GeForce" in gpu.name for gpu in gpus) else CheckStatus.WARN
        return CheckResult("gpu", verdict, f"{text}; {fault}", "install a newer driver on the host")
    if needs_one and any(_is_full(gpu) for gpu in gpus):
        return CheckResult("gpu", CheckStatus.WARN, text, "see what runs there, and llmstack capacity")
    return CheckResult("gpu", CheckStatus.OK, text)


def check_memory(subject: Subject) -> CheckResult:
    """Whether keys and values of a whole batch of the largest requests fit beside the engine, with room to spare."""
    sizes = [gpu.total_mib for gpu in find_gpus() if gpu.total_mib]
    if subject.engine != "tensorrtllm" or not sizes:
        return CheckResult("memory", CheckStatus.SKIPPED, "judged for TensorRT engines on a GPU that tells its memory")
    try:
        plan = plan_memory(Release.open(subject.release_dir), min(sizes) << 20)
    except (ReleaseError, CapacityError) as error:
        return CheckResult("memory", CheckStatus.WARN, str(error), "llmstack capacity --help")
    if plan is None:
        return CheckResult(
            "memory", CheckStatus.SKIPPED, "the engine has several ranks, or nothing says what its model is"
        )
    text = (
        f"{plan.num_requests} requests of {plan.tokens_per_request:,} tokens fit beside an engine of "
        f"{plan.engine_bytes / 10**9:.1f} GB and leave {float(HEADROOM):.0%}; the batch is {plan.max_batch_size}"
    )
    return CheckResult(
        "memory", CheckStatus.OK if plan.holds else CheckStatus.WARN, text, "" if plan.holds else "llmstack capacity"
    )


def check_mounts(subject: Subject) -> CheckResult:
    """Whether the models are there, and for TensorRT-LLM the files where its configuration looks for them."""
    wanted = [subject.model_repository / "ensemble" / "config.pbtxt"]
    if subject.engine == "tensorrtllm":
        wanted += TENSORRT_MOUNTS
    missing = [str(path) for path in wanted if not os.access(path, os.R_OK)]
    if missing:
        return CheckResult(
            "mounts", CheckStatus.FAIL, f"can't be read: {', '.join(missing)}", "docker/serve_triton.sh mounts them"
        )
    store = subject.release_dir.absolute().parent
    text = f"{subject.model_repository}, {store}"
    return CheckResult(
        "mounts", CheckStatus.OK, text if os.access(store, os.W_OK) else f"{text} (read-only: no promotions here)"
    )


def check_shared_memory(subject: Subject) -> CheckResult:
    """Triton's Python models talk through /dev/shm; a container has 64 MiB of it unless told otherwise."""
    size = shutil.disk_usage("/dev/shm").total  # noqa: S108 - POSIX shared memory, not a place for files
    text = f"{size >> 20:,} MiB in /dev/shm"
    if size < MIN_SHARED_MEMORY_BYTES:
        return CheckResult("shared memory", CheckStatus.FAIL, text, "docker run --shm-size 1g")
    return CheckResult("shared memory", CheckStatus.OK, text)


def check_release(subject: Subject) -> CheckResult:
    """Whether every file of the release is the one that its manifest names."""
    try:
        release = Release.open(subject.release_dir).verify_files()
    except ReleaseError as error:
        return CheckResult("release", CheckStatus.FAIL, str(error), f"llmstack manifest verify {subject.release_dir}")
    return CheckResult(
        "release", CheckStatus.OK, f"{release.manifest.engine.model}, engine {release.manifest.engine.hash}"
    )


def check_state_directory(subject: Subject) -> CheckResult:
    """Whether the state directory is free, can be written and has room; looked at without touching it."""
    path = subject.state_dir.absolute()
    if is_taken(path):
        return _running(subject, path)
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        next_step = "change its owner, or give another --state-dir (LLMSTACK_STATE_DIR)"
        return CheckResult("state directory", CheckStatus.FAIL, f"{there} can't be written", next_step)
    free = shutil.disk_usage(there).free
    text = f"{path}, {free >> 20:,} MiB free"
    if free < MIN_FREE_DISK_BYTES:
        return CheckResult(
            "state directory", CheckStatus.WARN, text, "nothing is served that can't be recorded: make room"
        )
    return CheckResult("state directory", CheckStatus.OK, text)


def _running(subject: Subject, path: Path) -> CheckResult:
    """Of a state directory in use: whether the service that uses it is the one on these ports."""
    pid = owner_pid(path)
    if _ports_of_ours(subject):
        return CheckResult("state directory", CheckStatus.OK, f"{path}: our service runs here, process {pid}")
    text = f"{path} is in use" + (f" by process {pid}" if pid else "")
    return CheckResult(
        "state directory", CheckStatus.FAIL, text, "stop it, or give another --state-dir (LLMSTACK_STATE_DIR)"
    )


def check_webhooks(subject: Subject) -> CheckResult:
    """Whether alerts have somewhere to go, and their secrets can be read; with `--reach`, whether somebody listens."""
    try:
        endpoints = read_endpoints(subject.environment)
    except ServerStartError as error:
        return CheckResult("webhooks", CheckStatus.FAIL, str(error), error.next_step)
    if not endpoints:
        return CheckResult(
            "webhooks", CheckStatus.WARN, "none: alerts wait in the ledger", "set LLMSTACK_READINESS_WEBHOOK_URL"
        )
    faults = [fault for each in endpoints if subject.reaches_webhooks and (fault := _unreachable(each.url))]
    names = ", ".join(each.name for each in endpoints)
    if faults:
        return CheckResult("webhooks", CheckStatus.WARN, "; ".join(faults), "events are kept and sent later")
    return CheckResult("webhooks", CheckStatus.OK, names)


def check_ports(subject: Subject) -> CheckResult:
    """Whether every port is free, or our running service's."""
    ours = _ports_of_ours(subject)
    names = {name: f"{name} {port or 'any'}" for name, port in subject.ports.items()}
    taken = [
        names[name]
        for name, port in subject.ports.items()
        if port and port not in ours and not _is_free(subject.host, port)
    ]
    if taken:
        return CheckResult(
            "ports", CheckStatus.FAIL, f"taken on {subject.host}: {', '.join(taken)}", "choose others, or 0"
        )
    of_ours = "; our service runs here" if ours else ""
    return CheckResult("ports", CheckStatus.OK, ", ".join(names.values()) + of_ours)


CHECKS: tuple[Callable[[Subject], CheckResult], ...] = (
    check_image,
    check_engine,
    check_server,
    check_gpu,
    check_memory,
    check_shared_memory,
    check_mounts,
    check_release,
    check_state_directory,
    check_webhooks,
    check_ports,
)


def examine(subject: Subject) -> list[CheckResult]:
    """Every finding, in order."""
    return [check(subject) for check in CHECKS]


def _is_full(gpu: Gpu) -> bool:
    return gpu.free_share is not None and gpu.free_share < MIN_MEMORY_HEADROOM


def _ports_of_ours(subject: Subject) -> set[int]:
    """Those of the subject's ports on which the service listens that works in the state directory, if one does."""
    if not is_taken(subject.state_dir):
        return set()
    try:
        service = psutil.Process(owner_pid(subject.state_dir))
        processes = [service, *service.children(recursive=True)]
        sockets = [connection for process in processes for connection in process.net_connections("tcp")]
    except psutil.Error:
        return set()
    listening = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
    return listening & set(subject.ports.values())


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
