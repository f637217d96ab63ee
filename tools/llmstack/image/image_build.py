"""Builds the image, step by step before the operator's eyes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import docker

DOCKERFILE = "docker/Dockerfile"
TITLE_LABEL, TITLE = "org.opencontainers.image.title", "llm-serving-stack"


class ImageError(RuntimeError):
    """The image can't be built or examined; the text says why."""


def build_image(
    root: Path, tag: str, arguments: Mapping[str, str], network: str | None, report: Callable[[str], None]
) -> str:
    """Build `docker/Dockerfile` of the checkout at `root`; the image's id. `report` gets every line of Docker's.

    Raises:
        ImageError: no Docker, or a step failed.
    """
    try:
        client = docker.from_env(timeout=3_600)
        lines = client.api.build(
            fileobj=_context(root),
            custom_context=True,
            dockerfile=DOCKERFILE,
            tag=tag,
            buildargs=dict(arguments),
            network_mode=network,
            rm=True,
            decode=True,
        )
        for text in _texts(lines):
            report(text)
        return str(client.images.get(tag).id)
    except docker.errors.DockerException as error:
        raise ImageError(f"Docker: {error}") from None


def image_labels(image: str) -> dict[str, str]:
    """The labels of an image.

    Raises:
        ImageError: no Docker, or no such image.
    """
    try:
        return dict(docker.from_env().images.get(image).labels)
    except docker.errors.ImageNotFound:
        raise ImageError(f"there is no image {image} here") from None
    except docker.errors.DockerException as error:
        raise ImageError(f"Docker: {error}") from None


def run_in_image(image: str, command: list[str]) -> tuple[int, str]:
    """Run a command in a container without network and with a read-only root: its status and what it printed.

    Raises:
        ImageError: no Docker, or no such image.
    """
    try:
        client = docker.from_env()
        container = client.containers.create(
            image,
            command[1:],
            entrypoint=command[:1],
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": ""},  # noqa: S108
        )
        try:
            container.start()
            status = int(container.wait(timeout=300)["StatusCode"])
            return status, container.logs().decode(errors="replace")
        finally:
            container.remove(force=True)
    except docker.errors.DockerException as error:
        raise ImageError(f"Docker: {error}") from None


def _context(root: Path) -> io.BytesIO:
    """What Docker gets: the files that .dockerignore lets through, in a stable order."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(root / DOCKERFILE, DOCKERFILE)
        for path in _chosen(root):
            tar.add(path, path.relative_to(root).as_posix(), recursive=False)
    archive.seek(0)
    return archive


def _chosen(root: Path) -> Iterator[Path]:
    """Files and links under the `!` lines of .dockerignore, without those that its `**/` lines name."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    wanted = [root / line[1:] for line in lines if line.startswith("!")]
    unwanted = [line[3:] for line in lines if line.startswith("**/")]
    for start in wanted:
        for path in [start, *sorted(start.rglob("*"))] if start.is_dir() else [start]:
            parts = path.relative_to(root).parts
            if not any(fnmatchcase(part, pattern) for part in parts for pattern in unwanted):
                yield path


def _texts(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for line in lines:
        if "error" in line:
            raise ImageError(str(line["error"]).strip())
        text = line.get("stream") or line.get("status") or ""
        if text.strip():
            yield text.strip()
