"""Builds the image from a checkout and reports each step."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, NamedTuple

from docker.errors import DockerException

from llmstack.image.docker_client import ImageError, connect
from llmstack.version import project_version

DOCKERFILE = "docker/Dockerfile"
_BUILD_TIMEOUT_S = 3_600


class ImageVariant(NamedTuple):
    """An image for one engine: its usual name, and build arguments other than the Dockerfile's own."""

    tag: str
    arguments: Mapping[str, str]


VARIANTS = {
    "trtllm": ImageVariant("llmstack", {}),
    "vllm": ImageVariant(
        "llmstack-vllm",
        {
            "TRITON_IMAGE": "nvcr.io/nvidia/tritonserver:26.07-vllm-python-py3",  # has the adapter's vLLM, 0.24
            "ENGINE_PYTHON": "/usr/bin/python3",
        },
    ),
}


def build_image(
    root: Path, tag: str, arguments: Mapping[str, str], network: str | None, report: Callable[[str], None]
) -> str:
    """Build `docker/Dockerfile` of the checkout at `root` and return the image's id.

    `report` receives every line of Docker's output.

    Raises:
        ImageError: Docker does not answer, or a step failed.
    """
    client = connect(_BUILD_TIMEOUT_S)
    try:
        with tempfile.TemporaryFile() as context:
            write_context(root, context)
            context.seek(0)
            lines = client.api.build(
                fileobj=context,
                custom_context=True,
                dockerfile=DOCKERFILE,
                tag=tag,
                buildargs={**version_arguments(root), **arguments},
                network_mode=network,
                rm=True,
                decode=True,
            )
            for text in output_lines(lines):
                report(text)
        return str(client.images.get(tag).id)
    except DockerException as error:
        raise ImageError(f"Docker: {error}") from None


def version_arguments(root: Path) -> dict[str, str]:
    """The build arguments for the image's labels: the project's version and, in a checkout, the commit."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        revision = done.stdout.strip() or "unknown"
    except OSError:
        revision = "unknown"
    return {"VERSION": project_version(), "REVISION": revision}


def write_context(root: Path, file: IO[bytes]) -> None:
    """Write Docker's build context as a tar: the files that .dockerignore selects, in a stable order."""
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(root / DOCKERFILE, DOCKERFILE)
        for path in _context_files(root):
            tar.add(path, path.relative_to(root).as_posix(), recursive=False)


def _context_files(root: Path) -> Iterator[Path]:
    """Everything under the `!` lines of .dockerignore except what its `**/` lines match."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    included = [root / line[1:] for line in lines if line.startswith("!")]
    excluded = [line[3:] for line in lines if line.startswith("**/")]
    for start in included:
        for path in [start, *sorted(start.rglob("*"))] if start.is_dir() else [start]:
            parts = path.relative_to(root).parts
            if not any(fnmatchcase(part, pattern) for part in parts for pattern in excluded):
                yield path


def output_lines(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Docker's output, decoded. A layer that it pulls gives many lines `<layer>: <status> <progress bar>`.

    Raises:
        ImageError: Docker reports that a step failed.
    """
    for line in lines:
        if "error" in line:
            raise ImageError(str(line["error"]).strip())
        if text := str(line.get("stream") or line.get("status") or "").strip():
            yield f"{line['id']}: {text} {line.get('progress', '')}".rstrip() if line.get("id") else text
