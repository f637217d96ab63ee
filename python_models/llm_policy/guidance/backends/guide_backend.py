"""The interface of a structured-output backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.json_schema.keyword_report import KeywordFinding
from llm_policy.release.guide_limits import GuideLimits

Bitmask = NDArray[np.int32]
"""[ceil(vocabulary / 32)]: one bit for each token, the lowest bit first; 1 allows the token."""


def num_mask_words(vocab_size: int) -> int:
    """Length of the bitmask of a vocabulary."""
    return (vocab_size + 31) // 32


@dataclass(frozen=True)
class PlannedGuide:
    """A guide as the engine gets it, and what is known about it."""

    engine_type: str
    """The engine's guide type: `ebnf_grammar` for XGrammar, `lark_grammar` for llguidance."""
    engine_text: str
    canonical: str
    """The guide's identity: RFC 8785 text of the client's JSON, or the client's own text if it is not JSON."""
    unenforced: tuple[KeywordFinding, ...] = ()
    """Keywords that the grammar does not enforce, or only in part."""
    narrowed: tuple[KeywordFinding, ...] = ()
    """Places where the grammar intentionally allows less than the schema."""
    num_rules: int = 0

    @property
    def num_bytes(self) -> int:
        """UTF-8 size of the engine's text."""
        return len(self.engine_text.encode())


class BackendLimit(Exception):
    """A guide is too large for one backend; another may take it. `error` is for the client, if none does."""

    def __init__(self, error: InvalidRequest) -> None:
        super().__init__(str(error))
        self.error = error


class GuideMatcher(Protocol):
    """The state of one output in a compiled guide."""

    def fill_bitmask(self, bitmask: Bitmask) -> None:
        """Write the mask of the tokens that may come next."""

    def accept_token(self, token_id: int) -> bool:
        """Go on by one token; false if the guide does not allow it."""


class CompiledGuide(Protocol):
    """A guide, compiled for the backend's vocabulary."""

    def matcher(self) -> GuideMatcher:
        """A matcher at the start of an output."""


class GuideBackend(Protocol):
    """Plans and compiles guides for one vocabulary."""

    name: str
    vocab_size: int

    def plans(self, kind: str, text: str, limits: GuideLimits, *, is_registered: bool) -> Iterator[PlannedGuide]:
        """The guide in the engine's form, the most exact plan first; each later plan costs the engine less.

        Raises:
            BackendLimit: `schema_too_complex`, the guide is too large for this backend.
            InvalidRequest: `schema_invalid` or `schema_too_complex`, with every backend.
        """

    def compile(self, engine_text: str) -> CompiledGuide:
        """Compile a planned guide.

        Raises:
            InvalidRequest: `schema_invalid`; the library's message is dropped, because it quotes the guide.
        """
