"""What NVIDIA's images can do: each tag's TensorRT-LLM, and what came and went with its versions.

Sources: NVIDIA's Triton release notes and support matrix for the versions of TensorRT-LLM in the tags, TensorRT-LLM's
own release notes for what each version brought.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

SUFFIX = "trtllm-python-py3"
LAST_TAG = (26, 7)
# The first tag of each version of TensorRT-LLM, the newest last.
_VERSIONS = (
    ((24, 5), (0, 9)),
    ((25, 5), (0, 19)),
    ((25, 6), (0, 20)),
    ((25, 9), (1, 0)),
    ((25, 12), (1, 1)),
    ((26, 4), (1, 2)),
)
# (the version that brought it, what is missing before it)
_NEEDED = (
    ((0, 16), "no guided decoding at all before TensorRT-LLM 0.16"),
    ((0, 17), "no Blackwell GPU (RTX 5090) before TensorRT-LLM 0.17"),
    ((0, 19), "no guide inputs in the C++ backend before TensorRT-LLM 0.19 (tag 25.05)"),
    ((1, 0), "no Qwen3 as a TensorRT engine and no token counts before TensorRT-LLM 1.0 (tag 25.09)"),
)
_TAG = re.compile(r"(?:.*:)?(\d{2})\.(\d{2})(-[\w.-]+)?")


class ImageTag(NamedTuple):
    """A tag such as 25.10-trtllm-python-py3."""

    year: int
    month: int
    suffix: str = SUFFIX

    @property
    def tensorrt_llm(self) -> tuple[int, int] | None:
        """The version of TensorRT-LLM that the tag has, as far as known."""
        known = [version for first, version in _VERSIONS if first <= (self.year, self.month)]
        return known[-1] if known else None

    def faults(self) -> list[str]:
        """Why an image of this tag can't serve `--engine tensorrtllm`; empty when it can."""
        if self.suffix != SUFFIX:
            return [f"only tags that end in -{SUFFIX} have TensorRT-LLM's backend"]
        if (self.year, self.month) > LAST_TAG:
            return [f"no C++ engine backend after tag {LAST_TAG[0]}.{LAST_TAG[1]:02d}: such an engine can't be loaded"]
        version = self.tensorrt_llm
        if version is None:
            return ["older than every tag that is known here"]
        return [missing for needed, missing in _NEEDED if version < needed]

    def __str__(self) -> str:
        return f"{self.year}.{self.month:02d}-{self.suffix}"


def parse_tag(text: str) -> ImageTag | None:
    """The tag in an image's name; None when there is none of NVIDIA's form."""
    match = _TAG.fullmatch(text.strip())
    if match is None or not 1 <= int(match[2]) <= 12:
        return None
    return ImageTag(int(match[1]), int(match[2]), (match[3] or f"-{SUFFIX}").removeprefix("-"))


def tag_of_this_image() -> ImageTag | None:
    """The tag that this process's image was made from, by the variable that NVIDIA's images set."""
    return parse_tag(os.environ.get("NVIDIA_TRITON_SERVER_VERSION", ""))
