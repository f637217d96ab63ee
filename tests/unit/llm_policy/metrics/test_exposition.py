"""The metrics text with several processes, killed processes and damaged files."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_policy.errors import Code
from llm_policy.ledger import metric_total
from llm_policy.ledger.size_budget import keep_budget
from llm_policy.metrics.exposition import exposition, exposition_parts
from llm_policy.metrics.policy_metrics import PolicyMetrics
from tests.ledgers import NEW_ROW, admit, full_disk, open_ledger, settlement

ANSWERED = NEW_ROW._replace(
    queue_delay_us=900, time_to_first_token_us=5_000, total_time_us=20_000, num_completion_tokens=4
)
OBSERVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from llm_policy.metrics.policy_metrics import PolicyMetrics
from tests.unit.llm_policy.metrics.test_exposition import ANSWERED
metrics = PolicyMetrics(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    metrics.observe_answer(ANSWERED)
    metrics.overhead_us["preprocess"].observe(300)
if len(sys.argv) > 3:
    sys.stdout.write("ready"); sys.stdout.flush(); sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.connection.close()


def samples(state_dir):
    """Value by (name, *label values), the labels in alphabetical order."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition(state_dir).decode())
        for sample in family.samples
    }


def test_the_size_of_the_ledger_and_its_budget_are_gauges(ledger, tmp_path):
    assert (samples(tmp_path)["llm_ledger_size_bytes",], samples(tmp_path)["llm_ledger_budget_bytes",]) == (0, 0)
    size = keep_budget(ledger.connection, 1 << 30, 1)
    found = samples(tmp_path)
    assert (found["llm_ledger_size_bytes",], found["llm_ledger_budget_bytes",]) == (size.used_bytes, 1 << 30)


def observer(state_dir, num_answers, *, stays_alive=False):
    arguments = [
        sys.executable,
        "-c",
        OBSERVE_AND_DIE,
        str(state_dir),
        str(num_answers),
        *(["stay"] if stays_alive else []),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["python_models", "."])}
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def test_every_series_of_a_counter_exists_from_the_start(ledger, tmp_path):
    values = samples(tmp_path)
    assert values["llm_cost_usd_total",] == 0
    assert all(values["llm_requests_rejected_total", code.value] == 0 for code in Code)
    assert all(
        values[("llm_requests_total", *reversed(series.split(",")))] == 0
        for series in metric_total.COUNTERS[metric_total.REQUESTS].series
    )


def test_the_cost_counter_is_exact_to_the_nano_dollar(ledger, tmp_path):
    ledger.settle([settlement(admit(ledger), actual_nano_usd=123_456_789_123_456)])
    assert round(samples(tmp_path)["llm_cost_usd_total",] * 1e9) == 123_456_789_123_456


def test_a_task_of_the_release_itself_has_a_series_from_its_first_row_on(ledger, tmp_path):
    own = NEW_ROW._replace(task="summarise")
    assert ("llm_requests_total", "settled", "summarise") not in samples(tmp_path)
    ledger.settle([settlement(admit(ledger, own), own)])
    assert samples(tmp_path)["llm_requests_total", "settled", "summarise"] == 1


def test_counters_come_from_the_ledger(ledger, tmp_path):
    ledger.settle([settlement(admit(ledger), flags=["schema_violation"])])
    ledger.record([[NEW_ROW._replace(code="unknown_task")]])
    values = samples(tmp_path)
    assert values["llm_requests_total", "settled", "judge"] == 1
    assert values["llm_requests_rejected_total", "unknown_task"] == 1
    assert values["llm_schema_violations_total",] == 1
    assert values["llm_alerts_total", "schema_violation"] == 1
    assert (values["llm_tokens_in_total",], values["llm_tokens_out_total",]) == (500, 40)


def test_observations_of_two_concurrent_processes_add_up(ledger, tmp_path):
    children = [observer(tmp_path, 5, stays_alive=True) for _ in range(2)]
    for child in children:
        assert child.stdout.read(5) == b"ready"
    assert samples(tmp_path)["llm_queue_delay_us_count",] == 10
    for child in children:
        child.communicate(b"")
    assert len(list((tmp_path / "metrics").glob("histogram_*.db"))) == 2


def test_observations_of_a_killed_process_are_kept_and_added_to(ledger, tmp_path):
    for _ in range(3):
        assert observer(tmp_path, 5).wait(60) == -signal.SIGKILL
    values = samples(tmp_path)
    assert values["llm_queue_delay_us_count",] == 15
    assert values["llm_queue_delay_us_sum",] == 15 * 900
    assert values["llm_time_per_output_token_us_sum",] == 15 * 5_000
    assert values["llm_policy_overhead_us_count", "preprocess"] == 15
    assert len(list((tmp_path / "metrics").glob("histogram_*.db"))) == 1


def test_an_answer_of_one_token_has_no_time_per_token(ledger, tmp_path):
    metrics = PolicyMetrics(tmp_path)
    metrics.observe_answer(ANSWERED._replace(num_completion_tokens=1, total_time_us=5_000))
    values = samples(tmp_path)
    assert (values["llm_time_to_first_token_us_count",], values["llm_time_per_output_token_us_count",]) == (1, 0)


def test_creating_metrics_restores_the_environment(tmp_path):
    PolicyMetrics(tmp_path)
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_the_text_parses_as_prometheus_format(ledger, tmp_path):
    PolicyMetrics(tmp_path)
    text = exposition(tmp_path).decode()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert families["llm_queue_delay_us"] == "histogram"
    assert families["llm_guide_cache"] == families["llm_cost_usd"] == "counter"
    assert text.endswith("\n")
    assert all(line.startswith(("#", "llm_")) for line in text.splitlines())


def zeros(path):
    """As after a power cut: the length is kept, the contents are lost."""
    path.write_bytes(path.read_bytes()[:8] + bytes(path.stat().st_size - 8))


def invalid_length(path):
    path.write_bytes(b"\xff\xff\xff\x7f" + path.read_bytes()[4:])


def noise(path):
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def truncated(path):
    path.write_bytes(path.read_bytes()[:3])


DAMAGE = [zeros, invalid_length, noise, truncated]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_process_quarantines_damaged_files_of_its_slot_and_continues(ledger, tmp_path, damage, capsys):
    assert observer(tmp_path, 5).wait(60) == -signal.SIGKILL
    for path in (tmp_path / "metrics").glob("*.db"):
        damage(path)
    PolicyMetrics(tmp_path).observe_answer(ANSWERED)
    assert samples(tmp_path)["llm_queue_delay_us_count",] == 1
    assert len(list((tmp_path / "metrics").glob("*.damaged-*"))) == 2
    assert capsys.readouterr().err.count('"metrics_file_damaged"') == 2


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_a_free_slot_does_not_hide_other_metrics(ledger, tmp_path, damage):
    first = PolicyMetrics(tmp_path)
    assert observer(tmp_path, 5).wait(60) == -signal.SIGKILL
    first.observe_answer(ANSWERED)
    ledger.settle([settlement(admit(ledger))])
    damage(tmp_path / "metrics" / "histogram_1.db")
    values = samples(tmp_path)
    assert values["llm_queue_delay_us_count",] == 1
    assert values["llm_tokens_in_total",] == 500
    assert samples(tmp_path) == values


def test_a_damaged_file_of_a_live_process_fails_the_histograms_but_not_the_ledger_part(ledger, tmp_path):
    held = PolicyMetrics(tmp_path)
    zeros(tmp_path / "metrics" / "histogram_0.db")
    parts = exposition_parts(tmp_path)
    with pytest.raises(OSError):
        parts["histograms"]()
    assert b"llm_tokens_in_total" in parts["ledger"]()
    assert held


def test_without_a_ledger_the_histograms_are_still_rendered(tmp_path):
    PolicyMetrics(tmp_path).observe_answer(ANSWERED)
    parts = exposition_parts(tmp_path)
    assert b"llm_queue_delay_us_count 1.0" in parts["histograms"]()
    with pytest.raises(sqlite3.Error):
        parts["ledger"]()


def num_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_full_disk_leaks_neither_slots_nor_file_descriptors(tmp_path):
    num_open = num_descriptors()
    with full_disk():
        for _ in range(3):
            with pytest.raises(OSError):
                PolicyMetrics(tmp_path)
    assert num_descriptors() == num_open
    PolicyMetrics(tmp_path)
    assert [path.name for path in (tmp_path / "metrics").glob("*.lock")] == ["0.lock"]
