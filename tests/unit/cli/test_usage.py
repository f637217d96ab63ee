"""`llmstack usage` prints the ledger's sums: exact, whole at any width, and beside a writer."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from typer.testing import CliRunner

from llm_policy.ledger import usage as sums
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.usage import Usage, UsageKey
from llmstack.cli.app import app
from tests.releases import change_manifest, write_release

DAY = 20_000  # 2024-10-04
TENANT = "a-tenant-with-quite-a-long-name-" * 3
HASH = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def writer(tmp_path):
    """The open connection of a writer."""
    with closing(open_database(tmp_path / FILE_NAME)) as connection:
        sums.add(
            connection,
            {
                UsageKey(TENANT, DAY, "judge", "", HASH): Usage(12_345_678, 12_345_678_901, 1_234_567, 10**12 + 1),
                UsageKey("acme", DAY + 1, "judge", "order", HASH): Usage(1, 10, 5, 62_000),
            },
        )
        sums.add_refusals(connection, {("acme", DAY + 1, "rate_limited"): 3})
        yield connection


def run(tmp_path, *arguments, exit_code=0, width=80):
    done = CliRunner().invoke(
        app, ["usage", *arguments, "--state-dir", str(tmp_path)], env={"COLUMNS": str(width), "TERM": "dumb"}
    )
    assert done.exit_code == exit_code, done.output
    return done


def run_json(tmp_path, *arguments):
    return json.loads(run(tmp_path, *arguments, "--json").stdout)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("by", ["day", "task", "schema", "model", "tenant"])
def test_nothing_is_cut_at_any_width(writer, tmp_path, by, width):
    text = run(tmp_path, "--by", by, width=width).stdout
    assert "…" not in text
    for number in ("12,345,679", "12,345,678,911", "1,234,572", "1000.000062001"):
        assert number in text.splitlines()[-1]
    key = {"tenant": TENANT, "model": HASH, "day": "2024-10-04"}.get(by, "")
    first_cells = "".join(line.split("  ")[0].strip() for line in text.splitlines())
    assert key in first_cells


def test_the_report_is_for_the_named_tenants_and_days(writer, tmp_path):
    assert run_json(tmp_path)["totals"]["num_rows"] == 12_345_679
    document = run_json(tmp_path, "--tenant", "acme", "--since", "2024-10-05", "--until", "2024-10-05")
    assert (document["tenant"], document["since"], document["until"]) == ("acme", "2024-10-05", "2024-10-05")
    assert document["data"] == [{"day": "2024-10-05", **document["totals"]}]
    assert document["totals"]["cost_usd"] == "0.000062000"
    assert document["totals"]["num_refused"] == 3
    several = run_json(tmp_path, "--by", "tenant", "--tenant", "acme", "--tenant", TENANT)
    assert [row["tenant"] for row in several["data"]] == [TENANT, "acme"]


def test_a_period_without_usage_says_so(writer, tmp_path):
    assert "no usage in this period" in run(tmp_path, "--until", "2024-10-03").stderr
    assert "swap the two dates" in run(tmp_path, "--since", "2024-10-05", "--until", "2024-10-03", exit_code=2).stderr


def test_models_are_named_by_the_release_and_those_beside_it(tmp_path):
    store, state = tmp_path / "artifacts" / "releases", tmp_path / "state"
    release, other = write_release(store / "a").manifest.engine, write_release(store / "b").manifest.engine
    change_manifest(store / "b", engine={**other.model_dump(), "hash": HASH, "model": "Older-Model"})
    (store / "broken").mkdir()
    state.mkdir()
    with closing(open_database(state / FILE_NAME)) as connection:
        for engine_hash in (release.hash, HASH, "sha256:unknown"):
            sums.add(connection, {UsageKey("acme", DAY, "", "", engine_hash): Usage(1, 1, 1, 1)})
    text = run(state, "--by", "model", "--release", str(store / "a"), width=200).stdout
    lines = {line.split("  ")[0].strip() for line in text.splitlines()}
    assert {f"{release.model} {release.hash}", f"Older-Model {HASH}", "sha256:unknown"} <= lines
    document = run_json(state, "--by", "model", "--release", str(tmp_path / "missing"))
    assert {row["model"] for row in document["data"]} == {None}


def test_archived_rows_stay_in_the_sums(writer, tmp_path):
    before = run_json(tmp_path)
    writer.execute("DELETE FROM request")
    assert run_json(tmp_path) == before


def test_it_reads_beside_a_transaction(writer, tmp_path):
    writer.execute("BEGIN IMMEDIATE")
    sums.add(writer, {UsageKey("acme", DAY, "", "", HASH): Usage(1, 1, 1, 1)})
    assert run_json(tmp_path)["totals"]["num_rows"] == 12_345_679
    writer.execute("COMMIT")
    assert run_json(tmp_path)["totals"]["num_rows"] == 12_345_680


def test_a_ledger_without_sums_and_a_missing_one_have_next_steps(tmp_path):
    assert "set --state-dir" in run(tmp_path, exit_code=2).stderr
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("CREATE TABLE request (id INTEGER)")
        connection.execute("PRAGMA user_version = 3")
        connection.commit()
    assert "start `llmstack serve`" in run(tmp_path, exit_code=2).stderr
