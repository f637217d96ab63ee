"""Why a request gets no answer, in the words of the policy's refusals."""

from __future__ import annotations

from typing import NamedTuple


class Failure(NamedTuple):
    """`code` opens the text that the client gets. The policy's codes are used, since clients match on those."""

    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


DEAD_END = Failure("invalid_input", "the guide, bad_words and min_tokens together leave no token to go on with")
NO_MEMORY = Failure("overloaded", "there is no memory for a request of so many tokens")
STEP_FAILED = Failure("internal", "the engine failed while it decoded")
STOPPING = Failure("draining", "the engine stops")
UNWRITABLE = Failure("internal", "the answer could not be written")
