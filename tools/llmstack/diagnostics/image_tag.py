"""The capabilities of NVIDIA's images: the TensorRT-LLM version of each tag, and the features of each version.

Sources: the Triton release notes and support matrix for the versions of TensorRT-LLM in the tags; the TensorRT-LLM
release notes for the features.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from bisect import bisect
from typing import NamedTuple

from llmstack.server.binary import IMAGE_ROOT

SUFFIX = "trtllm-python-py3"
LAST_TAG = (26, 7)
# Tag → TensorRT-LLM version. A tag between two of these has a version between theirs.
_VERSIONS = {
    (24, 5): (0, 9),
    (25, 5): (0, 19),
    (25, 6): (0, 20),
    (25, 7): (0, 20),
    (25, 9): (1, 0),
    (25, 10): (1, 0),
    (25, 12): (1, 1),
    (26, 1): (1, 1),
    (26, 2): (1, 1),
    (26, 4): (1, 2),
    (26, 5): (1, 2),
    (26, 6): (1, 2),
    (26, 7): (1, 2),
}
# (the first version with the feature, the feature that older versions lack)
_FEATURES = (
    ((0, 16), "no guided decoding at all before TensorRT-LLM 0.16"),
    ((0, 17), "no Blackwell GPU (RTX 5090) before TensorRT-LLM 0.17"),
    ((0, 19), "no guide inputs in the C++ backend before TensorRT-LLM 0.19 (tag 25.05)"),
    ((1, 0), "no Qwen3 as a TensorRT engine and no token counts before TensorRT-LLM 1.0 (tag 25.09)"),
)
_TAG = re.compile(r"(?:.*:)?(\d{2})\.(\d{2})(-[\w.-]+)?(?:@sha256:[0-9a-f]{64})?")
_Version = tuple[int, int]


class ImageTag(NamedTuple):
    """A tag such as 25.10-trtllm-python-py3. `installed` is the installed TensorRT-LLM, which overrides the tag's."""

    year: int
    month: int
    suffix: str = SUFFIX
    installed: _Version | None = None

    @property
    def versions(self) -> tuple[_Version, _Version]:
        """The lowest and the highest TensorRT-LLM version that it may have; equal when the version is known."""
        if self.installed:
            return self.installed, self.installed
        tag = (self.year, self.month)
        if tag in _VERSIONS:
            return _VERSIONS[tag], _VERSIONS[tag]
        known = list(_VERSIONS)
        index = bisect(known, tag)
        lowest = _VERSIONS[known[index - 1]] if index else (0, 0)
        return lowest, _VERSIONS[known[min(index, len(known) - 1)]]

    @property
    def description(self) -> str:
        """The tag and its TensorRT-LLM version, for reports."""
        if self.suffix != SUFFIX:
            return f"{self}: no TensorRT-LLM"
        if self._is_too_new:
            return f"{self}: TensorRT-LLM without its C++ engine backend"
        low, high = ("{}.{}".format(*version) for version in self.versions)
        return f"{self}: TensorRT-LLM {low}" if low == high else f"{self}: TensorRT-LLM between {low} and {high}"

    def errors(self) -> list[str]:
        """Why an image of this tag certainly can't serve `--engine tensorrtllm`; empty when it can or might."""
        if self.suffix != SUFFIX:
            return [f"only tags that end in -{SUFFIX} have TensorRT-LLM's backend"]
        if self._is_too_new:
            return [f"no C++ engine backend after tag {LAST_TAG[0]}.{LAST_TAG[1]:02d}: such an engine can't be loaded"]
        return [missing for first, missing in _FEATURES if self.versions[1] < first]

    def warnings(self) -> list[str]:
        """Features that the lowest possible version lacks and the highest has."""
        if self.suffix != SUFFIX or self._is_too_new:
            return []
        low, high = self.versions
        return [f"perhaps {missing}" for first, missing in _FEATURES if low < first <= high]

    @property
    def _is_too_new(self) -> bool:
        return (self.year, self.month) > LAST_TAG

    def __str__(self) -> str:
        return f"{self.year}.{self.month:02d}-{self.suffix}"


def parse_tag(text: str) -> ImageTag | None:
    """The tag in an image's name, with or without a digest; None when it does not have NVIDIA's form."""
    match = _TAG.fullmatch(text.strip())
    if match is None or not 1 <= int(match[2]) <= 12:
        return None
    return ImageTag(int(match[1]), int(match[2]), (match[3] or f"-{SUFFIX}").removeprefix("-"))


def current_image_tag() -> ImageTag | None:
    """The tag of the image that this process runs in; None outside NVIDIA's images.

    NVIDIA_TRITON_SERVER_VERSION has the year and month; the installed packages show the suffix.
    """
    tag = parse_tag(os.environ.get("NVIDIA_TRITON_SERVER_VERSION", ""))
    if tag is None:
        return None
    installed = _installed_version()
    has_backend = installed is not None or (IMAGE_ROOT / "backends" / "tensorrtllm").is_dir()
    return tag._replace(installed=installed, suffix=SUFFIX if has_backend else "py3")


def _installed_version() -> _Version | None:
    try:
        match = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("tensorrt_llm"))
    except importlib.metadata.PackageNotFoundError:
        return None
    return (int(match[1]), int(match[2])) if match else None
