"""Findings as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmstack.diagnostics.check_result import CheckResult, CheckStatus

_STYLES = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "red", CheckStatus.SKIPPED: "dim"}
_SIGNS = {CheckStatus.OK: "✔", CheckStatus.WARN: "!", CheckStatus.FAIL: "✘", CheckStatus.SKIPPED: "–"}


def print_findings(findings: Sequence[CheckResult]) -> None:
    """A table on standard output. Names of files are shown as they are: brackets in them are no markup."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("", "check", "found", "next"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("", "check"))
    for finding in findings:
        sign = f"[{_STYLES[finding.verdict]}]{_SIGNS[finding.verdict]}"
        table.add_row(sign, finding.check, escape(finding.text), escape(finding.next_step))
    Console(highlight=False).print(table)


def keeps_from_serving(findings: Sequence[CheckResult]) -> bool:
    """Whether one of them is a failure."""
    return any(finding.verdict is CheckStatus.FAIL for finding in findings)
