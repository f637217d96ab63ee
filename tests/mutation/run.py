"""Runs mutmut on the rules that decide about money and access, and prints what survived.

    python -m tests.mutation.run [--keep] [--workspace DIR] [PATTERN…]

mutmut names a module by its path, so the sources are copied into `build/mutation/src`, where paths are import names.
PATTERN, such as `llm_policy.rules.budget*`, limits the run; `--keep` mutates the sources as they were copied last time.
Results of the last whole run: docs/results/mutation.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.import_graph import ROOT

WORKSPACE = ROOT / "build" / "mutation"
MUTATED = (
    "llm_policy/api_key.py",
    "llm_policy/rules/headers.py",
    "llm_policy/rules/tenants.py",
    "llm_policy/rules/row_input.py",
    "llm_policy/rules/sampling.py",
    "llm_policy/rules/budget.py",
    "llm_policy/pricing.py",
    "llm_policy/ledger/ledger.py",
    "llm_policy/ledger/alerts.py",
    "llm_policy/ledger/tenant.py",
    "llm_policy/ledger/tenant_account.py",
    "llm_policy/ledger/budget_alert.py",
    "llm_policy/ledger/budget_window.py",
    "llm_policy/ledger/usage.py",
    "llmstack/release/promotion_gates.py",
)
TESTS = (
    "tests/unit/llm_policy/rules",
    "tests/unit/llm_policy/test_api_key.py",
    "tests/unit/llm_policy/test_pricing.py",
    # Without the tests that start processes of their own, which mutmut would take for its workers.
    "tests/unit/llm_policy/ledger/test_ledger.py",
    "tests/unit/llm_policy/ledger/test_alerts.py",
    "tests/unit/llm_policy/ledger/test_row_record.py",
    "tests/unit/llm_policy/ledger/test_tenant.py",
    "tests/unit/llm_policy/ledger/test_tenant_account.py",
    "tests/unit/llm_policy/ledger/test_usage.py",
    "tests/unit/llm_policy/steps",
    "tests/unit/release/test_promotion_gates.py",
    "tests/property/test_headers.py",
    "tests/property/test_pricing.py",
    "tests/property/test_row_record.py",
)
COPIED = ("tests", "artifacts", "model_repository", "docs", "docker", "README.md")
CONFIGURATION = """
[tool.pytest.ini_options]
addopts = "--import-mode=importlib --strict-markers -q -p no:cacheprovider"
pythonpath = ["src", "."]
markers = ["server: needs a live tritonserver", "slow: runs in make test-all"]

[tool.mutmut]
source_paths = ["src"]
only_mutate = {mutated}
also_copy = {copied}
pytest_add_cli_args_test_selection = {tests}
"""


def make_workspace(workspace: Path) -> None:
    """A copy of the project in which every module's path is its import name."""
    shutil.rmtree(workspace, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "build")
    for package in (
        "python_models/llm_policy",
        "python_models/engine_process",
        "python_models/portable_engine",
        "tools/llmstack",
        "tools/embedded_model",
    ):
        shutil.copytree(ROOT / package, workspace / "src" / Path(package).name, ignore=ignore)
    for name in COPIED:
        source, target = ROOT / name, workspace / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, target)
    text = CONFIGURATION.format(
        mutated=json.dumps([f"src/{path}" for path in MUTATED]), copied=json.dumps(COPIED), tests=json.dumps(TESTS)
    )
    (workspace / "pyproject.toml").write_text(text, encoding="utf-8")


def main() -> int:
    """The exit status of mutmut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--keep", action="store_true", help="use the workspace as it is")
    parser.add_argument("--workspace", type=Path, default=WORKSPACE)
    arguments = parser.parse_args()
    if not arguments.keep:
        make_workspace(arguments.workspace)
    mutmut = [str(Path(sys.executable).with_name("mutmut"))]
    done = subprocess.run([*mutmut, "run", *arguments.patterns], cwd=arguments.workspace, check=False)
    results = [*mutmut, "results", "--all", "true"]
    listed = subprocess.run(results, cwd=arguments.workspace, capture_output=True, text=True, check=True)
    print(table(listed.stdout))
    return done.returncode


def table(results: str) -> str:
    """The number of mutants by module and outcome, as Markdown, and the survivors' names below it."""
    outcomes: dict[str, Counter[str]] = {}
    survivors = []
    for line in results.splitlines():
        name, _, outcome = line.strip().partition(": ")
        if not outcome:
            continue
        outcomes.setdefault(name.rsplit(".", 1)[0], Counter())[outcome] += 1
        if outcome != "killed":
            survivors.append(f"{name}: {outcome}")
    lines = ["| module | mutants | killed | share |", "|---|---:|---:|---:|"]
    for module, counts in sorted(outcomes.items()):
        lines.append(
            f"| `{module}` | {counts.total()} | {counts['killed']} | {counts['killed'] / counts.total():.0%} |"
        )
    return "\n".join([*lines, "", *survivors])


if __name__ == "__main__":
    sys.exit(main())
