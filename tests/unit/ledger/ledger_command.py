"""Runs `llmstack ledger` in the test's process."""

import json

from typer.testing import CliRunner

from llmstack.cli.ledger import app

DAY_NS = 86_400 * 10**9
NOON_NS = 20_000 * DAY_NS + DAY_NS // 2  # 2024-10-04


def run(tmp_path, *arguments, exit_code=0):
    done = CliRunner().invoke(app, [*arguments, "--state-dir", str(tmp_path)])
    assert done.exit_code == exit_code, done.output
    return done


def run_json(tmp_path, *arguments, exit_code=0):
    return json.loads(run(tmp_path, *arguments, "--json", exit_code=exit_code).stdout)
