"""The connection to Docker."""

from __future__ import annotations

from docker.errors import DockerException

import docker


class ImageError(RuntimeError):
    """The image can't be built or checked; the text says why."""


def connect(timeout_s: int = 60) -> docker.DockerClient:
    """A client of the Docker daemon that the environment names.

    Raises:
        ImageError: the daemon does not answer.
    """
    try:
        return docker.from_env(timeout=timeout_s)
    except DockerException as error:
        raise ImageError(f"Docker: {error}") from None
