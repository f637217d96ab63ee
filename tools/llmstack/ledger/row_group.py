"""Groups of the ledger's rows, and what they add to the metric totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from llm_policy.ledger import alerts, metric_total
from llm_policy.ledger.ledger import RULE_OF_FLAG


class RowGroup(NamedTuple):
    """Closed rows that are no canaries and have these values in common, with their sums."""

    task: str
    state: str
    swept_as: str
    code: str
    flags: str
    num_rows: int
    num_prompt_tokens: int
    num_completion_tokens: int
    nano_usd: int


KEYS = RowGroup._fields[:5]


def metric_sums(groups: Iterable[RowGroup]) -> Counter[tuple[str, str]]:
    """The rows' part of the metric totals, by name and labels."""
    sums: Counter[tuple[str, str]] = Counter()
    for group in groups:
        task = group.task or metric_total.NO_TASK
        sums[metric_total.REQUESTS, f"{task},{group.swept_as or group.state}"] += group.num_rows
        if group.swept_as:
            sums[metric_total.REQUESTS, f"{task},{metric_total.LATE}"] += group.num_rows
        sums[metric_total.COST, ""] += group.nano_usd
        if group.state == "refused":
            sums[metric_total.REJECTED, group.code] += group.num_rows
        else:
            sums[metric_total.TOKENS_IN, ""] += group.num_prompt_tokens
            sums[metric_total.TOKENS_OUT, ""] += group.num_completion_tokens
        _add_breaches(sums, group)
    return sums


def _add_breaches(sums: Counter[tuple[str, str]], group: RowGroup) -> None:
    for rule in (RULE_OF_FLAG[flag] for flag in group.flags.split(",") if flag in RULE_OF_FLAG):
        sums[metric_total.ALERTS, rule] += group.num_rows
        if rule == alerts.SCHEMA_VIOLATION:
            sums[metric_total.VIOLATIONS, ""] += group.num_rows
