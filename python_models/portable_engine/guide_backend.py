"""The interface of a structured-output backend: it compiles guides of its types to grammars, and a grammar gives one
matcher to each sequence.
"""

from __future__ import annotations

from typing import Any, Protocol

from portable_engine.failure import Failure


class GuideError(ValueError):
    """The guide can't be used. `failure` never quotes the guide."""

    def __init__(self, detail: str, code: str = "schema_invalid") -> None:
        super().__init__(detail)
        self.failure = Failure(code, detail)


class BackendMatcher(Protocol):
    """One sequence's state in its grammar."""

    def fill_bitmask(self, bitmask: Any, row: int) -> None:
        """Write the allowed tokens into one row of an int32 tensor [rows, words]; its bits must all be 1 before.

        Raises:
            GuideError: the backend failed, or the mask exceeds a limit of it.
        """

    def accept_token(self, token_id: int) -> bool:
        """Advance by one token. False if the grammar does not allow it.

        Raises:
            GuideError: the state exceeds a limit of the backend.
        """

    def is_terminated(self) -> bool:
        """Whether the token that ends the output was accepted."""


class CompiledGrammar(Protocol):
    """A compiled guide."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, in bytes, approximately."""

    def matcher(self, end_id: int) -> BackendMatcher:
        """A new matcher. `end_id` alone ends the output; below 0, the tokenizer's stop tokens do."""


class GuideBackend(Protocol):
    """Compiles guides for one tokenizer."""

    def compile(self, guide_type: str, guide: str) -> CompiledGrammar:
        """Compile a guide of one of the backend's types.

        Raises:
            GuideError: it does not compile.
        """


def does_not_compile(guide_type: str) -> GuideError:
    """The error for a guide that does not compile. The libraries' own texts quote it."""
    return GuideError(f"the {guide_type} guide does not compile")
