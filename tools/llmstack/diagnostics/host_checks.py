"""Checks of the host: shared memory, state directory, webhooks and ports. They change nothing."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from llmstack.diagnostics.check_result import CheckResult, CheckStatus
from llmstack.diagnostics.deployment import Deployment
from llmstack.events.endpoint import read_endpoints
from llmstack.server.error import ServerStartError
from llmstack.supervision.state_directory import is_in_use, owner_pid

MIN_SHARED_MEMORY_BYTES = 256 << 20
MIN_FREE_DISK_BYTES = 1 << 30
_CONNECT_TIMEOUT_S = 3


def check_shared_memory(deployment: Deployment) -> CheckResult:
    """Whether /dev/shm is large enough for Triton's Python models; Docker's default is 64 MiB."""
    size = shutil.disk_usage("/dev/shm").total  # noqa: S108 - POSIX shared memory, not a temporary file
    text = f"{size >> 20:,} MiB in /dev/shm"
    if size < MIN_SHARED_MEMORY_BYTES:
        return CheckResult("shared memory", CheckStatus.FAIL, text, "docker run --shm-size 1g")
    return CheckResult("shared memory", CheckStatus.OK, text)


def check_state_directory(deployment: Deployment) -> CheckResult:
    """Whether the state directory is unused, writable and has free space. Creates nothing."""
    path = deployment.state_dir.absolute()
    if is_in_use(path):
        return _state_directory_in_use(deployment, path)
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        next_step = "change its owner, or give another --state-dir (LLMSTACK_STATE_DIR)"
        return CheckResult("state directory", CheckStatus.FAIL, f"{existing} can't be written", next_step)
    free = shutil.disk_usage(existing).free
    text = f"{path}, {free >> 20:,} MiB free"
    if free < MIN_FREE_DISK_BYTES:
        next_step = "free some space: requests are rejected when the ledger can't be written"
        return CheckResult("state directory", CheckStatus.WARN, text, next_step)
    return CheckResult("state directory", CheckStatus.OK, text)


def _state_directory_in_use(deployment: Deployment, path: Path) -> CheckResult:
    """OK when the service that uses the directory also listens on the deployment's ports: it is the same service."""
    pid = owner_pid(path)
    if _own_service_ports(deployment):
        return CheckResult("state directory", CheckStatus.OK, f"{path}: used by this running service, process {pid}")
    text = f"{path} is in use" + (f" by process {pid}" if pid else "")
    next_step = "stop it, or give another --state-dir (LLMSTACK_STATE_DIR)"
    return CheckResult("state directory", CheckStatus.FAIL, text, next_step)


def check_webhooks(deployment: Deployment) -> CheckResult:
    """Whether webhooks are configured and their secrets readable; with `--reach`, whether they accept connections."""
    try:
        endpoints = read_endpoints(deployment.environment)
    except ServerStartError as error:
        return CheckResult("webhooks", CheckStatus.FAIL, str(error), error.next_step)
    if not endpoints:
        text = "none: alerts stay in the ledger"
        return CheckResult("webhooks", CheckStatus.WARN, text, "set LLMSTACK_READINESS_WEBHOOK_URL")
    if deployment.connects_to_webhooks:
        errors = [text for endpoint in endpoints if (text := _connection_error(endpoint.url))]
        if errors:
            return CheckResult("webhooks", CheckStatus.WARN, "; ".join(errors), "events are kept and sent later")
    return CheckResult("webhooks", CheckStatus.OK, ", ".join(endpoint.name for endpoint in endpoints))


def _connection_error(url: str) -> str:
    """Why the URL's host does not accept a TCP connection; empty when it does. The URL's path may be a secret."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_S):
            return ""
    except OSError as error:
        return f"{parts.scheme}://{parts.hostname}:{port} can't be reached: {error.strerror or error}"


def check_ports(deployment: Deployment) -> CheckResult:
    """Whether every port is free, or already used by this running service."""
    own_ports = _own_service_ports(deployment)
    labels = {name: f"{name} {port or 'any'}" for name, port in deployment.ports.items()}
    taken = [
        labels[name]
        for name, port in deployment.ports.items()
        if port and port not in own_ports and not _is_free(deployment.host, port)
    ]
    if taken:
        text = f"taken on {deployment.host}: {', '.join(taken)}"
        return CheckResult("ports", CheckStatus.FAIL, text, "choose others, or 0")
    suffix = "; used by this running service" if own_ports else ""
    return CheckResult("ports", CheckStatus.OK, ", ".join(labels.values()) + suffix)


def _own_service_ports(deployment: Deployment) -> set[int]:
    """The deployment's ports on which the service of this state directory already listens; empty when none runs."""
    if not is_in_use(deployment.state_dir):
        return set()
    try:
        service = psutil.Process(owner_pid(deployment.state_dir))
        processes = [service, *service.children(recursive=True)]
        sockets = [connection for process in processes for connection in process.net_connections("tcp")]
    except psutil.Error:
        return set()
    listening = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
    return listening & set(deployment.ports.values())


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
