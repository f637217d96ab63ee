"""`python -m tests.coverage_table REPORT`: the line and branch coverage of each package, from `coverage json`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

_ROOTS = ("python_models/", "tools/")
_COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")
_DEPTH = 2  # llm_policy.guidance, and not llm_policy.guidance.plan


def package_of(path: str) -> str:
    """The package of a source file, to `_DEPTH` levels."""
    for root in _ROOTS:
        path = path.removeprefix(root)
    return ".".join(Path(path).parent.parts[:_DEPTH])


def format_table(report: dict[str, dict[str, dict[str, dict[str, int]]]]) -> str:
    """One line for each package and one for all of them."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0] * len(_COUNTS))
    for path, file in report["files"].items():
        for package in (package_of(path), "all"):
            totals[package] = [
                total + file["summary"][name] for total, name in zip(totals[package], _COUNTS, strict=True)
            ]
    header = f"{'package':32}{'lines':>8}{'covered':>9}{'branches':>10}{'covered':>9}"
    names = sorted(totals.keys() - {"all"})
    return "\n".join([header, *(_format_row(name, totals[name]) for name in (*names, "all"))])


def _format_row(name: str, counts: list[int]) -> str:
    num_lines, covered_lines, num_branches, covered_branches = counts
    lines, branches = _percent(covered_lines, num_lines), _percent(covered_branches, num_branches)
    return f"{name:32}{num_lines:>8}{lines:>9}{num_branches:>10}{branches:>9}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


if __name__ == "__main__":
    print(format_table(json.loads(Path(sys.argv[1]).read_text())))
