"""`llmstack ledger bench`."""

import json
from contextlib import closing

import pytest
from typer.testing import CliRunner

from llm_policy.ledger.database import open_read_only
from llmstack.cli.ledger import app
from llmstack.ledger.write_bench import CALLS, fill_ledger


def bench(tmp_path, *arguments):
    options = ["--writes", "100", "--rows", "2000", "--directory", str(tmp_path)]
    done = CliRunner().invoke(app, ["bench", *options, *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_bench_measures_one_and_two_writers_and_deletes_its_ledger(tmp_path):
    measured = json.loads(bench(tmp_path, "--json"))
    costs = measured["costs"]
    assert [(cost["num_writers"], cost["call"]) for cost in costs[:: len(CALLS)]] == [(1, "enter"), (2, "enter")]
    assert all(0 < cost["median_us"] <= cost["p99_us"] for cost in costs)
    assert (measured["directory"], measured["num_rows"]) == (str(tmp_path), 2_000)
    assert not list(tmp_path.iterdir())


def test_the_bench_states_the_directory_and_the_number_of_rows(tmp_path):
    assert f"in {tmp_path}, on a ledger of 2,000 rows:" in bench(tmp_path)


@pytest.mark.parametrize("num_rows", [0, 1, 2_000])
def test_a_ledger_is_filled_with_the_requested_number_of_rows(tmp_path, num_rows):
    fill_ledger(tmp_path, num_rows)
    with closing(open_read_only(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*), count(closed_ns) FROM request").fetchone() == (num_rows, num_rows)
