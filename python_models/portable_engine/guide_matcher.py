"""One sequence's state in its guide, which can fail."""

from __future__ import annotations

from typing import Any

from portable_engine.compiled_guides import CompiledGuide
from portable_engine.failure import Failure
from portable_engine.guide_backend import BackendMatcher, GuideError


class GuideMatcher:
    """A backend's matcher that keeps its failure, or its guide's. After a failure it allows no token."""

    def __init__(self, guide: CompiledGuide, matcher: BackendMatcher) -> None:
        self.guide = guide
        self._matcher = matcher
        self._failure: Failure | None = None

    @property
    def failure(self) -> Failure | None:
        """Why the sequence can't continue; None while it can."""
        return self._failure or self.guide.failure

    def fill_bitmask(self, bitmask: Any, row: int) -> None:
        """Write the allowed tokens into one row of an int32 tensor [rows, words]; its bits must all be 1 before."""
        if self.failure is None:
            try:
                self._matcher.fill_bitmask(bitmask, row)
            except GuideError as error:
                self._failure = error.failure
        if self.failure is not None:
            bitmask[row] = 0

    def accept_token(self, token_id: int) -> bool:
        """Advance by one token. False if the grammar does not allow it, or if the matcher failed."""
        try:
            return self._failure is None and self._matcher.accept_token(token_id)
        except GuideError as error:
            self._failure = error.failure
            return False

    def is_terminated(self) -> bool:
        """Whether the token that ends the output was accepted."""
        return self._matcher.is_terminated()
