"""Sums over the rows of the ledger and its archive by day, tenant, task, engine, schema or error code.

Rejected rows that are only counted are rows too, without tenant and schema.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from llm_policy.ledger.archive_file import read_counted_files
from llmstack.ledger.archive_reader import ArchiveReader, GroupSums, may_have
from llmstack.ledger.money import dollar_text
from llmstack.ledger.period import Period
from llmstack.ledger.rejections import count_rejections

# The SQL expression of each group. Days are UTC.
GROUPS = {
    "day": "date(admitted_ns / 1000000000, 'unixepoch')",
    "tenant": "tenant",
    "task": "task",
    "engine": "engine_hash",
    "schema": "schema_id",
    "code": "code",
}
# The columns of archived rows; those of other groups have the group's name.
_ARCHIVED_COLUMNS = {"engine": "engine_hash", "schema": "schema_id"}
_SUMS = """
    count(*), coalesce(sum(state = 'settled'), 0), coalesce(sum(state = 'refused'), 0),
    coalesce(sum(state = 'cancelled'), 0), coalesce(sum(state = 'lost'), 0), coalesce(sum(state = 'admitted'), 0),
    coalesce(sum(CASE WHEN state = 'refused' THEN 0 ELSE num_prompt_tokens END), 0),
    coalesce(sum(num_completion_tokens), 0),
    coalesce(sum(CASE WHEN state = 'admitted' THEN 0 ELSE actual_nano_usd END), 0),
    coalesce(sum(flags LIKE '%queue_delay_breach%'), 0), coalesce(sum(flags LIKE '%cost_breach%'), 0),
    coalesce(sum(flags LIKE '%schema_violation%'), 0)
"""


class Sums(NamedTuple):
    """The sums of one group. Each row of a batch counts; prompt tokens are those sent to the engine.

    `only_counted` is the part of `refused` that the ledger holds no rows of.
    """

    num_rows: int
    settled: int
    refused: int
    cancelled: int
    lost: int
    open: int
    num_prompt_tokens: int
    num_completion_tokens: int
    cost_nano_usd: int
    queue_delay_breaches: int
    cost_breaches: int
    schema_violations: int
    only_counted: int = 0

    def as_json(self) -> dict[str, Any]:
        """All sums, with the cost also as an exact decimal."""
        return {**self._asdict(), "cost_usd": dollar_text(self.cost_nano_usd)}

    def with_counted(self, number: int) -> Sums:
        """These sums with `number` more refused rows, which are only counted."""
        return self._replace(
            num_rows=self.num_rows + number, refused=self.refused + number, only_counted=self.only_counted + number
        )

    def plus(self, more: Sums) -> Sums:
        """These sums and others."""
        return Sums(*map(sum, zip(self, more, strict=True)))


class Report(NamedTuple):
    """The sums of each group, sorted by the group's key, and of all rows."""

    group_names: Sequence[str]
    groups: list[tuple[tuple[str, ...], Sums]]
    total: Sums

    def as_json(self) -> dict[str, Any]:
        """Groups as objects with the group's key and sums."""
        groups = [{**dict(zip(self.group_names, key, strict=True)), **sums.as_json()} for key, sums in self.groups]
        return {"groups": groups, "total": self.total.as_json()}


def make_report(
    connection: sqlite3.Connection,
    group_names: Sequence[str],
    period: Period,
    *,
    with_canary: bool,
    archive: ArchiveReader | None = None,
) -> Report:
    """Sums by `group_names`, which are keys of GROUPS; without `archive` of the ledger's rows only.

    Raises:
        sqlite3.Error: the ledger can't be read.
        ArchiveError: the archive can't be read.
        ImportError: there is an archive, and pyarrow is not installed.
    """
    connection.execute("BEGIN")  # a row that is archived meanwhile counts once
    try:
        by_key = _sums_of_ledger(connection, group_names, period, with_canary)
        files = [file for file in read_counted_files(connection) if archive is not None and may_have(file, period)]
    finally:
        connection.execute("COMMIT")
    keys = [_ARCHIVED_COLUMNS.get(name, name) for name in group_names]
    for file in files:
        for (*key, state, flags), sums in archive.group(file, [*keys, "state", "flags"], period):  # type: ignore[union-attr]
            by_key[tuple(key)] = by_key.get(tuple(key), _ZERO).plus(_archived_sums(state, flags, sums))
    groups = sorted(by_key.items(), key=lambda item: item[0])
    total = _ZERO
    for _, group in groups:
        total = total.plus(group)
    return Report(group_names, groups, total)


def _sums_of_ledger(
    connection: sqlite3.Connection, group_names: Sequence[str], period: Period, with_canary: bool
) -> dict[tuple[str, ...], Sums]:
    where = "FROM request WHERE admitted_ns >= ? AND admitted_ns < ? AND canary <= ?"
    keys = ", ".join(GROUPS[name] for name in group_names)
    num_keys = len(group_names)
    columns = ", ".join(str(column + 1) for column in range(num_keys))
    rows = connection.execute(f"SELECT {keys}, {_SUMS} {where} GROUP BY {columns}", (*period, with_canary))
    by_key = {tuple(row[:num_keys]): Sums(*row[num_keys:]) for row in rows}
    for key, number in count_rejections(connection, group_names, period).items():
        by_key[key] = by_key.get(key, _ZERO).with_counted(number)
    return by_key


def _archived_sums(state: str, flags: str, sums: GroupSums) -> Sums:
    def if_flagged(flag: str) -> int:
        return sums.num_rows if flag in flags.split(",") else 0

    return _ZERO._replace(
        **{state: sums.num_rows},
        num_rows=sums.num_rows,
        num_prompt_tokens=0 if state == "refused" else sums.num_prompt_tokens,
        num_completion_tokens=sums.num_completion_tokens,
        cost_nano_usd=sums.nano_usd,
        queue_delay_breaches=if_flagged("queue_delay_breach"),
        cost_breaches=if_flagged("cost_breach"),
        schema_violations=if_flagged("schema_violation"),
    )


_ZERO = Sums(*(0 for _ in Sums._fields))
