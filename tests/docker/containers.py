"""The image that the unchanged Dockerfile builds on the stand-in for NVIDIA's, and containers of it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Two checkouts on one machine must not share images and containers.
PROJECT = f"llmstack-test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
TAG = PROJECT
VLLM_TAG = f"{PROJECT}-vllm"
ENGINE_PYTHON = "/opt/engine/bin/python"  # of the stand-in, in place of the system's Python of NVIDIA's image with vLLM


def require_docker() -> None:
    """Skip the test when Docker does not answer or debootstrap is not installed."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker answers here (.ci/run installs and starts it)")
    if shutil.which("debootstrap") is None:
        pytest.skip("not installed: debootstrap (.ci/run installs it)")


def docker(*arguments: str, check: bool = True, **environment: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def make_stand_in() -> tuple[str, str]:
    """The names of two images: Debian with HAProxy and Prometheus, and the stand-in for NVIDIA's image."""
    environment = {**os.environ, "PYTHON": sys.executable}
    output = subprocess.check_output([HERE / "make_stand_in.sh"], env=environment, text=True)
    debian, stand_in = output.split()[-2:]
    return debian, stand_in


def make_image() -> str:
    """Build the image and return its tag; a repeated build takes a few seconds. A lock serialises parallel workers."""
    with (Path(tempfile.gettempdir()) / "llmstack-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, stand_in = make_stand_in()
        done = llmstack("image", "build", "--tag", TAG, "--triton-image", stand_in, "--network", "host")
        assert done.returncode == 0, done.stderr[-4_000:]
        return TAG


def make_vllm_image() -> str:
    """Build the image with vLLM and return its tag."""
    options = ("--engine", "vllm", "--tag", VLLM_TAG, "--engine-python", ENGINE_PYTHON)
    done = llmstack("image", "build", *options, "--triton-image", make_stand_in()[1], "--network", "host")
    assert done.returncode == 0, done.stderr[-4_000:]
    return VLLM_TAG


def llmstack(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `llmstack` of this checkout."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'python_models'}:{ROOT / 'tools'}"}
    return subprocess.run(
        [sys.executable, "-m", "llmstack", *arguments],
        capture_output=True, text=True, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip


def wait_healthy(container: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while (
        state := docker("inspect", "-f", "{{.State.Status}} {{.State.Health.Status}}", container)
    ) != "running healthy":
        assert time.monotonic() < end and state.startswith("running"), f"{state}\n{docker('logs', container)[-4_000:]}"
        time.sleep(0.5)


@contextmanager
def container(*arguments: str) -> Iterator[str]:
    """Run a container, and remove it with its volumes at the end."""
    container_id = docker("run", "--detach", *arguments)
    try:
        yield container_id
    finally:
        docker("rm", "--force", "--volumes", container_id, check=False)


def published_port(container_id: str, inner: int) -> int:
    return int(docker("port", container_id, str(inner)).splitlines()[0].rsplit(":", 1)[1])
