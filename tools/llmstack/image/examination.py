"""What an image must be: each check looks at one thing, from outside or from within a container of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from docker.errors import DockerException, ImageNotFound

import docker
from llmstack.image.docker_engine import ImageError, connect

LABELS = "org.opencontainers.image."
TITLE = "llm-serving-stack"
HEALTHCHECK = ["CMD", "llmstack", "ready"]
_START_TIMEOUT_S = 180
# Without network, and with nothing to write but memory.
_CONFINED: dict[str, Any] = {
    "network_mode": "none",
    "read_only": True,
    "tmpfs": {"/tmp": ""},  # noqa: S108
    "shm_size": "1g",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "init": True,
}


class ImageCheck(NamedTuple):
    """What one check found."""

    check: str
    ok: bool
    text: str


def examine_image(name: str) -> list[ImageCheck]:
    """Every check of the image `name`, in order.

    Raises:
        ImageError: no Docker, no such image, or it holds something else.
    """
    client = connect()
    try:
        image = client.images.get(name)
        config = image.attrs["Config"]
        if (config.get("Labels") or {}).get(f"{LABELS}title") != TITLE:
            raise ImageError(f"the image {name} holds no llmstack")
        results = [check(config) for check in (check_labels, check_user, check_healthcheck)]
        environment = ["python", "/opt/llmstack-build/check_environment.py"]
        release = ["llmstack", "manifest", "verify", "artifacts/current"]
        results += [_run(client, name, "environment", environment), _run(client, name, "release", release)]
        return [*results, _start(client, name)]
    except ImageNotFound:
        raise ImageError(f"there is no image {name} here") from None
    except DockerException as error:
        raise ImageError(f"Docker: {error}") from None


def check_labels(config: Mapping[str, Any]) -> ImageCheck:
    """Whether the image says what it was made from."""
    labels = config.get("Labels") or {}
    found = {name: labels.get(f"{LABELS}{name}") or "unknown" for name in ("version", "revision")}
    return ImageCheck("labels", "unknown" not in found.values(), ", ".join(f"{k} {v}" for k, v in found.items()))


def check_user(config: Mapping[str, Any]) -> ImageCheck:
    """Whether it runs as somebody without rights, given as a number so that an orchestrator can tell."""
    user = str(config.get("User") or "root")
    return ImageCheck("user", user.isdigit() and int(user) > 0, user)


def check_healthcheck(config: Mapping[str, Any]) -> ImageCheck:
    """Whether Docker asks the service itself how it is."""
    test = (config.get("Healthcheck") or {}).get("Test")
    return ImageCheck("healthcheck", test == HEALTHCHECK, " ".join(test or ["none"]))


def _run(client: docker.DockerClient, image: str, check: str, command: list[str]) -> ImageCheck:
    """Whether `command` succeeds in the image."""

    def judge(container: Any) -> tuple[bool, str]:
        status = int(container.wait(timeout=_START_TIMEOUT_S)["StatusCode"])
        return status == 0, container.logs().decode(errors="replace").strip()

    return ImageCheck(check, *_in_container(client, image, command[:1], command[1:], judge))


def _start(client: docker.DockerClient, image: str) -> ImageCheck:
    """Whether the whole stack comes up on a root that can't be written; the no-op engine needs no GPU."""

    def judge(container: Any) -> tuple[bool, str]:
        began = time.monotonic()
        while time.monotonic() - began < _START_TIMEOUT_S:
            container.reload()
            if container.status == "exited":
                return False, container.logs(tail=20).decode(errors="replace").strip()
            if container.exec_run(HEALTHCHECK[1:]).exit_code == 0:
                return True, f"ready after {time.monotonic() - began:.0f} s, with a read-only root"
            time.sleep(1)
        return False, f"not ready within {_START_TIMEOUT_S} s"

    return ImageCheck("start", *_in_container(client, image, None, ["--engine", "echo"], judge))


def _in_container(
    client: docker.DockerClient,
    image: str,
    entrypoint: list[str] | None,
    arguments: list[str],
    judge: Callable[[Any], tuple[bool, str]],
) -> tuple[bool, str]:
    container = client.containers.create(image, arguments, entrypoint=entrypoint, **_CONFINED)
    try:
        container.start()
        return judge(container)
    finally:
        container.remove(force=True, v=True)
