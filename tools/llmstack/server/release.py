"""Opening the release that a server serves, and picking the engine that runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm_policy.release.release import Release, ReleaseError
from llmstack.server.error import ServerStartError


def open_release(directory: Path) -> Release:
    """The release at `directory`, with every file checked against its manifest.

    Raises:
        ServerStartError: a file differs or is missing; the text lists every difference.
    """
    with release_errors_as_start_errors(directory):
        return Release.open(directory).verify_files()


@contextlib.contextmanager
def release_errors_as_start_errors(directory: Path) -> Iterator[None]:
    """Raises a ServerStartError with a next step in place of a ReleaseError."""
    try:
        yield
    except ReleaseError as error:
        raise ServerStartError(str(error), f"llmstack manifest verify {directory} shows what belongs there") from None


def parse_engine_options(options: Iterable[str]) -> dict[str, str]:
    """Options `key=value` by their keys.

    Raises:
        ServerStartError: one has no key or no value, or a key is there twice.
    """
    parsed: dict[str, str] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not key or not separator or key in parsed:
            reason = f"--engine-option {option} " + ("gives a key again" if key in parsed else "is not KEY=VALUE")
            raise ServerStartError(reason, "give each option once, such as --engine-option tensor_parallel_size=2")
        parsed[key] = value
    return parsed


def pick_engine(release: Release) -> str:
    """`tensorrtllm` for a release that holds a TensorRT engine, else `embedded`."""
    is_tensorrt = release.engine_path.is_file() or any(release.engine_path.glob("*.engine"))
    return "tensorrtllm" if is_tensorrt else "embedded"


def guess_engine(release_dir: Path) -> str:
    """`pick_engine` of the release at `release_dir`; `embedded` when it can't be opened, which the caller checks."""
    try:
        return pick_engine(Release.open(release_dir))
    except ReleaseError:
        return "embedded"
