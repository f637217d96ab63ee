"""Compares the files of the archive with what the ledger knows about them, and the usage with the rows of both."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from llm_policy.ledger import archive_file, metric_total
from llm_policy.ledger.archive_file import ArchiveFile
from llm_policy.ledger.usage import Usage, UsageKey
from llmstack.ledger.account_checks import has_accounts
from llmstack.ledger.archive_reader import ArchiveError, ArchiveReader
from llmstack.ledger.discrepancy import Discrepancy, Sums, compare_sums
from llmstack.ledger.period import Period
from llmstack.ledger.row_group import KEYS, RowGroup, metric_sums
from llmstack.ledger.usage_checks import add_usage, compare_usage, usage_in_totals, usage_of_file, usage_of_ledger


class ArchiveState(NamedTuple):
    """What the ledger knows about its archive, and the usage by day, in one snapshot."""

    files: list[ArchiveFile]
    sums: Mapping[str, Sums]
    usage_of_ledger: Mapping[UsageKey, Usage]
    usage_in_totals: Mapping[UsageKey, Usage]

    @property
    def num_rows(self) -> int:
        """The number of archived rows."""
        return sum(
            value
            for sums in self.sums.values()
            for (name, labels), value in sums.items()
            if name == metric_total.REQUESTS and not labels.endswith(f",{metric_total.LATE}")
        )

    @property
    def days(self) -> set[int]:
        """The days that may have archived rows."""
        return {day for file in self.files for day in range(file.first_day, file.end_day)}


def read_state(connection: sqlite3.Connection) -> ArchiveState:
    """The state; the caller's transaction makes it one snapshot."""
    usage = (usage_of_ledger(connection), usage_in_totals(connection)) if has_accounts(connection) else ({}, {})
    return ArchiveState(archive_file.read_counted_files(connection), archive_file.read_sums(connection), *usage)


def check_usage(state: ArchiveState) -> list[Discrepancy]:
    """The discrepancies of the usage on days without archived rows."""
    return list(compare_usage(state.usage_of_ledger, state.usage_in_totals, state.days))


def check_files(state: ArchiveState, archive: ArchiveReader) -> list[Discrepancy]:
    """The discrepancies of the files with their sums, and of the usage on every day if every file can be read.

    Raises:
        ImportError: pyarrow is not installed.
    """
    found: list[Discrepancy] = []
    usage = [state.usage_of_ledger]
    for file in state.files:
        try:
            in_file = metric_sums(RowGroup(*(*key, *sums)) for key, sums in archive.group(file, KEYS, Period()))
            usage.append(usage_of_file(archive, file))
        except ArchiveError as error:
            found.append(Discrepancy(f"archive file {file.name}", str(error), "readable"))
            continue
        differing = compare_sums(in_file, state.sums.get(file.name, {}))
        found += [each._replace(check=f"{each.check} in archive file {file.name}") for each in differing]
    if len(usage) <= len(state.files):
        return [*found, *check_usage(state)]
    return [*found, *compare_usage(add_usage(usage), state.usage_in_totals, ())]
