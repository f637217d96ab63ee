"""Compares the usage by day (`usage_day`) with the rows of the ledger and of its archive."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import date

from llm_policy.ledger.archive_file import ArchiveFile
from llm_policy.ledger.budget_window import NS_PER_DAY, date_of
from llm_policy.ledger.usage import Usage, UsageKey, schema_group
from llmstack.ledger.archive_reader import ArchiveReader
from llmstack.ledger.discrepancy import Discrepancy
from llmstack.ledger.period import Period

_MAX_SHOWN = 20
_USED = ("settled", "cancelled", "lost")
_ROWS = (
    f"SELECT tenant, admitted_ns / {NS_PER_DAY} AS day, task, schema_id, engine_hash, count(*), "  # noqa: S608 - constants
    "sum(num_prompt_tokens), sum(num_completion_tokens), sum(actual_nano_usd) FROM request "
    f"WHERE canary = 0 AND state IN {_USED} GROUP BY 1, 2, 3, 4, 5"
)
_TOTALS = (
    "SELECT tenant, day, task, schema_id, engine_hash, num_rows, num_prompt_tokens, num_completion_tokens, nano_usd "
    "FROM usage_day"
)
_KEYS = ("tenant", "day", "task", "schema_id", "engine_hash", "state")
_NONE = Usage()

UsageSums = Mapping[UsageKey, Usage]


def usage_of_ledger(connection: sqlite3.Connection) -> UsageSums:
    """The usage according to the ledger's rows."""
    return _add_up((UsageKey(*row[:5]), Usage(*row[5:])) for row in connection.execute(_ROWS))


def usage_in_totals(connection: sqlite3.Connection) -> UsageSums:
    """The usage according to `usage_day`."""
    return {UsageKey(*row[:5]): Usage(*row[5:]) for row in connection.execute(_TOTALS)}


def usage_of_file(archive: ArchiveReader, file: ArchiveFile) -> UsageSums:
    """The usage according to the archived rows of a file.

    Raises:
        ArchiveError: the file can't be read.
        ImportError: pyarrow is not installed.
    """
    return _add_up(
        (UsageKey(tenant, _day(day), task, schema_id, engine_hash), Usage(*sums))
        for (tenant, day, task, schema_id, engine_hash, state), sums in archive.group(file, _KEYS, Period())
        if state in _USED
    )


def add_usage(parts: Iterable[UsageSums]) -> UsageSums:
    """The sum of several usages."""
    return _add_up(item for part in parts for item in part.items())


def compare_usage(in_rows: UsageSums, in_totals: UsageSums, skipped_days: Container[int]) -> Iterator[Discrepancy]:
    """Groups whose rows and totals differ."""
    keys = sorted(key for key in {*in_rows, *in_totals} if key.day not in skipped_days)
    differing = [key for key in keys if in_rows.get(key, _NONE) != in_totals.get(key, _NONE)]
    for key in differing[:_MAX_SHOWN]:
        names = ", ".join(text or "-" for text in (key.task, key.schema_id, key.engine_hash[:19]))
        check = f"usage of tenant {key.tenant or '-'} on {date_of(key.day)} ({names})"
        yield Discrepancy(check, _text(in_rows.get(key, _NONE)), _text(in_totals.get(key, _NONE)))
    if len(differing) > _MAX_SHOWN:
        yield Discrepancy("further groups of usage", len(differing) - _MAX_SHOWN, 0)


def _add_up(parts: Iterable[tuple[UsageKey, Usage]]) -> UsageSums:
    sums: dict[UsageKey, Counter[str]] = {}
    for key, usage in parts:
        key = key._replace(schema_id=schema_group(key.schema_id))
        sums.setdefault(key, Counter()).update(usage._asdict())
    return {key: Usage(**sum_) for key, sum_ in sums.items()}


def _day(text: str) -> int:
    return (date.fromisoformat(text) - date_of(0)).days


def _text(usage: Usage) -> str:
    return (
        f"{usage.num_rows} rows, {usage.num_prompt_tokens} + {usage.num_completion_tokens} tokens, "
        f"{usage.nano_usd} nano-dollars"
    )
