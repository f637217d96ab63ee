"""What preprocess decided about one row, handed to postprocess as one JSON text in the `policy_decision` tensor."""

from __future__ import annotations

from typing import NamedTuple

import orjson


class Decision(NamedTuple):
    """One admitted row. `guide_kind` and `guide_text` are what the client asked for, empty when unguided."""

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

    def to_json(self) -> bytes:
        """This decision as bytes for the tensor."""
        return orjson.dumps(tuple(self))

    @classmethod
    def from_json(cls, raw: bytes) -> Decision:
        """The decision in `raw`."""
        return cls(*orjson.loads(raw))
