"""Everything the policy knows about one row of a request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llm_policy.errors import Code


class RowRecord(NamedTuple):
    """One row: who sent it, what the policy decided about it and how it ended.

    It is immutable and grows by keyword (`_replace`). A field has its default until its step is reached. It never
    holds text of a prompt or an answer.
    """

    # The client's identity, from the headers (`rules/headers.py`); the row's index in its request.
    request_id: str = ""
    tenant: str = ""
    is_authenticated: bool = False  # the tenant was found by an API key, not by a header's word
    trace_id: str = ""
    is_canary: bool = False
    row_number: int = 0
    # Decided by preprocess. `guide_kind` and `guide_text` are the client's guide, empty when unguided.
    task: str = ""
    schema_id: str = ""
    guide_kind: str = ""
    guide_text: str = ""
    is_new_guide: bool = False  # a client's guide that was not compiled when it came
    num_prompt_tokens: int = 0
    max_completion_tokens: int = 0
    prompt_nano_usd: int = 0
    projected_nano_usd: int = 0
    end_id: int = 0
    includes_prompt: bool = False
    stop_words: tuple[tuple[int, ...], ...] = ()
    # From the ledger: None if it could not be written.
    ledger_id: int | None = None
    # The error code of a rejected row; empty for any other.
    code: str = ""
    code_detail: str = ""  # of a code that the ledger gave: rule, limit and value
    is_cut: bool = False  # has a code, but pays for the tokens that the engine generated until then
    # Found by postprocess.
    finish_reason: str = ""
    num_completion_tokens: int = 0
    actual_nano_usd: int = 0
    schema_valid: bool = False
    flags: tuple[str, ...] = ()
    queue_delay_us: int = 0
    time_to_first_token_us: int = 0
    total_time_us: int = 0


def rejected(records: Iterable[RowRecord], code: Code, detail: str = "") -> list[RowRecord]:
    """The records of a request that is rejected with `code`."""
    return [record._replace(code=code.value, code_detail=detail) for record in records]
