"""The capabilities of NVIDIA's images: the TensorRT-LLM or vLLM of each tag, and the features of each version.

Sources: the Triton release notes and support matrix for the versions in the tags; the TensorRT-LLM release notes for
the features.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from bisect import bisect
from typing import NamedTuple

from llmstack.server.binary import IMAGE_ROOT

SUFFIX = "trtllm-python-py3"
VLLM_SUFFIX = "vllm-python-py3"
LAST_TAG = (26, 7)
# Tag → TensorRT-LLM version. A tag between two of these has a version between theirs.
_VERSIONS = {
    (24, 5): (0, 9),
    (25, 5): (0, 19),
    (25, 6): (0, 20),
    (25, 7): (0, 20),
    (25, 8): (0, 21),
    (25, 9): (1, 0),
    (25, 10): (1, 0),
    (25, 11): (1, 0),
    (25, 12): (1, 1),
    (26, 1): (1, 1),
    (26, 2): (1, 1),
    (26, 3): (1, 2),
    (26, 4): (1, 2),
    (26, 5): (1, 2),
    (26, 6): (1, 2),
    (26, 7): (1, 2),
}
# Tag → vLLM version, in the same way. Each of these images has Python 3.12.
_VLLM_VERSIONS = {
    (25, 10): (0, 10),
    (25, 11): (0, 11),
    (25, 12): (0, 11),
    (26, 1): (0, 13),
    (26, 2): (0, 15),
    (26, 3): (0, 17),
    (26, 4): (0, 19),
    (26, 5): (0, 19),
    (26, 6): (0, 22),
    (26, 7): (0, 24),
    (26, 8): (0, 27),
}
MIN_VLLM_VERSION = (0, 11)
VLLM_VERSION = (0, 24)
"""The vLLM that the adapter is written for."""
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
    """A tag such as 25.10-trtllm-python-py3. `installed` is the installed version, which overrides the tag's.

    It is that of TensorRT-LLM or, with the suffix of the images with vLLM, of vLLM.
    """

    year: int
    month: int
    suffix: str = SUFFIX
    installed: _Version | None = None

    @property
    def versions(self) -> tuple[_Version, _Version]:
        """The lowest and the highest version that it may have; equal when the version is known."""
        if self.installed:
            return self.installed, self.installed
        versions = _VLLM_VERSIONS if self.has_vllm else _VERSIONS
        tag = (self.year, self.month)
        if tag in versions:
            return versions[tag], versions[tag]
        known = list(versions)
        index = bisect(known, tag)
        lowest = versions[known[index - 1]] if index else (0, 0)
        return lowest, versions[known[min(index, len(known) - 1)]]

    @property
    def has_vllm(self) -> bool:
        """Whether it is an image with vLLM."""
        return self.suffix == VLLM_SUFFIX

    @property
    def description(self) -> str:
        """The tag and its version of TensorRT-LLM or vLLM, for reports."""
        if self.suffix not in (SUFFIX, VLLM_SUFFIX):
            return f"{self}: no TensorRT-LLM, no vLLM"
        if self._is_too_new and not self.has_vllm:
            return f"{self}: TensorRT-LLM without its C++ engine backend"
        name = "vLLM" if self.has_vllm else "TensorRT-LLM"
        low, high = map(_text, self.versions)
        return f"{self}: {name} {low}" if low == high else f"{self}: {name} between {low} and {high}"

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

    def vllm_errors(self) -> list[str]:
        """Why the vLLM of an image of this tag certainly can't serve `--engine vllm`; empty when it can or might."""
        if not self.has_vllm:
            return [f"only tags that end in -{VLLM_SUFFIX} have vLLM"]
        if self.versions[1] < MIN_VLLM_VERSION:
            return [f"vLLM before {_text(MIN_VLLM_VERSION)} is not supported (tag 25.11)"]
        return []

    def vllm_warnings(self) -> list[str]:
        """What may be wrong with the vLLM of an image of this tag."""
        if self.vllm_errors() or self.versions == (VLLM_VERSION, VLLM_VERSION):
            return []
        return [f"the adapter is written for vLLM {_text(VLLM_VERSION)}: others are untested"]

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
    for package, backend, suffix in (("tensorrt_llm", "tensorrtllm", SUFFIX), ("vllm", "vllm", VLLM_SUFFIX)):
        installed = _installed_version(package)
        if installed is not None or (IMAGE_ROOT / "backends" / backend).is_dir():
            return tag._replace(installed=installed, suffix=suffix)
    return tag._replace(suffix="py3")


def parse_version(text: str) -> tuple[int, int] | None:
    """The first two numbers of a version; None when it does not begin with two."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _installed_version(package: str) -> _Version | None:
    try:
        return parse_version(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(version: _Version) -> str:
    return "{}.{}".format(*version)
