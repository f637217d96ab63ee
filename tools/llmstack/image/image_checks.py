"""The checks of a built image: its configuration, and commands that run in containers of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from docker.errors import DockerException, ImageNotFound

import docker
from llmstack.image.docker_client import ImageError, connect

LABELS = "org.opencontainers.image."
TITLE = "llm-serving-stack"
HEALTHCHECK = ["CMD", "llmstack", "ready"]
_START_TIMEOUT_S = 180
# No network, and only memory is writable.
_CONFINEMENT: dict[str, Any] = {
    "network_mode": "none",
    "read_only": True,
    "tmpfs": {"/tmp": ""},  # noqa: S108
    "shm_size": "1g",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "init": True,
}


class ImageCheck(NamedTuple):
    """The result of one check."""

    check: str
    ok: bool
    text: str


def run_image_checks(name: str) -> list[ImageCheck]:
    """Run every check on the image `name`, in order.

    Raises:
        ImageError: Docker does not answer, or the image does not exist or does not contain llmstack.
    """
    client = connect()
    try:
        image = client.images.get(name)
        config = image.attrs["Config"]
        if (config.get("Labels") or {}).get(f"{LABELS}title") != TITLE:
            raise ImageError(f"the image {name} does not contain llmstack")
        results = [check(config) for check in (check_labels, check_user, check_healthcheck)]
        environment = ["python", "/opt/llmstack-build/check_environment.py"]
        release = ["llmstack", "manifest", "verify", "artifacts/current"]
        results += [
            _check_command(client, name, "environment", environment),
            _check_command(client, name, "release", release),
        ]
        return [*results, _check_start(client, name)]
    except ImageNotFound:
        raise ImageError(f"there is no image {name} here") from None
    except DockerException as error:
        raise ImageError(f"Docker: {error}") from None


def check_labels(config: Mapping[str, Any]) -> ImageCheck:
    """Whether the labels name the version and the commit that the image was built from."""
    labels = config.get("Labels") or {}
    found = {name: labels.get(f"{LABELS}{name}") or "unknown" for name in ("version", "revision")}
    return ImageCheck("labels", "unknown" not in found.values(), ", ".join(f"{k} {v}" for k, v in found.items()))


def check_user(config: Mapping[str, Any]) -> ImageCheck:
    """Whether the user is not root. It must be a number: an orchestrator can't resolve a name."""
    user = str(config.get("User") or "root")
    return ImageCheck("user", user.isdigit() and int(user) > 0, user)


def check_healthcheck(config: Mapping[str, Any]) -> ImageCheck:
    """Whether Docker's health check is `llmstack ready`."""
    test = (config.get("Healthcheck") or {}).get("Test")
    return ImageCheck("healthcheck", test == HEALTHCHECK, " ".join(test or ["none"]))


def _check_command(client: docker.DockerClient, image: str, check: str, command: list[str]) -> ImageCheck:
    """Whether `command` succeeds in the image."""

    def observe(container: Any) -> tuple[bool, str]:
        status = int(container.wait(timeout=_START_TIMEOUT_S)["StatusCode"])
        return status == 0, container.logs().decode(errors="replace").strip()

    return ImageCheck(check, *_in_container(client, image, command[:1], command[1:], observe))


def _check_start(client: docker.DockerClient, image: str) -> ImageCheck:
    """Whether the whole stack becomes ready on a read-only root, with the no-op engine, which needs no GPU."""

    def observe(container: Any) -> tuple[bool, str]:
        start = time.monotonic()
        while time.monotonic() - start < _START_TIMEOUT_S:
            container.reload()
            if container.status == "exited":
                return False, container.logs(tail=20).decode(errors="replace").strip()
            if container.exec_run(HEALTHCHECK[1:]).exit_code == 0:
                return True, f"ready after {time.monotonic() - start:.0f} s, with a read-only root"
            time.sleep(1)
        return False, f"not ready within {_START_TIMEOUT_S} s"

    return ImageCheck("start", *_in_container(client, image, None, ["--engine", "echo"], observe))


def _in_container(
    client: docker.DockerClient,
    image: str,
    entrypoint: list[str] | None,
    arguments: list[str],
    observe: Callable[[Any], tuple[bool, str]],
) -> tuple[bool, str]:
    """The result of `observe` on a started container, which is removed afterwards."""
    container = client.containers.create(image, arguments, entrypoint=entrypoint, **_CONFINEMENT)
    try:
        container.start()
        return observe(container)
    finally:
        container.remove(force=True, v=True)
