"""What preprocess decided about one row, passed to postprocess as JSON in the `policy_decision` tensor.

The tensor is UINT8 [rows, bytes], shorter rows padded with blanks. A STRING tensor would be slower: Triton's utilities
encode and decode one in Python loops.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson


class Decision(NamedTuple):
    """One admitted row. `guide_kind` and `guide_text` are the client's guide, empty when unguided."""

    request_id: str
    tenant: str
    task: str
    schema_id: str
    guide_kind: str
    guide_text: str
    num_prompt_tokens: int
    max_completion_tokens: int
    projected_nano_usd: int
    end_id: int
    stop_words: list[list[int]]
    includes_prompt: bool
    returns_log_probs: bool
    trace_id: str = ""
    is_canary: bool = False
    row_number: int = 0
    ledger_id: int = 0


def pack_decisions(decisions: list[Decision]) -> npt.NDArray[np.uint8]:
    """The tensor [rows, bytes] of `decisions`, one per row."""
    texts = [orjson.dumps(tuple(decision)) for decision in decisions]
    width = max(map(len, texts))
    return np.frombuffer(b"".join(text.ljust(width) for text in texts), np.uint8).reshape(len(texts), width)


def unpack_decisions(array: npt.NDArray[np.uint8]) -> list[Decision]:
    """The decisions in a tensor [rows, bytes]."""
    return [Decision(*orjson.loads(row.tobytes())) for row in array]
