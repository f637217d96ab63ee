"""LedgerWriter with a full or read-only disk: what is rejected, and how service resumes."""

import json
import os
import subprocess
import sys
import time

import pytest

from llm_policy.errors import Code, LedgerUnavailable, Unavailable
from llm_policy.ledger import metric_total
from llm_policy.ledger.database import open_database
from llm_policy.ledger.metric_total import read_totals
from llm_policy.ledger.row_record import RowRecord
from llm_policy.steps.ledger_writer import LedgerWriter
from tests.ledgers import NEW_ROW, full_disk, rejection, settlement
from tests.manifests import manifest

# The mount vanishes with the child's namespace, even if the test is killed.
_MOUNTS = subprocess.run(
    ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
)
needs_mount = pytest.mark.skipif(_MOUNTS.returncode != 0, reason="needs the right to mount a small tmpfs (root)")


@pytest.fixture
def writer(tmp_path):
    opened = LedgerWriter(tmp_path, manifest(), "boot-1")
    opened.open()
    return opened


def connection(writer):
    """The writer's own connection."""
    return writer._open_ledger().connection


def fill(writer):
    """Allow the database no further page, as on a full disk."""
    connection(writer).execute("PRAGMA max_page_count = 1")


def make_room(writer):
    connection(writer).execute("PRAGMA max_page_count = 1000000")


def states(tmp_path):
    return [row[0] for row in open_database(tmp_path / "ledger.db").execute("SELECT state FROM request ORDER BY id")]


def admit(writer):
    """Admit one request. Returns the id of its row."""
    ((admitted,),) = writer.record([[NEW_ROW]])
    assert not admitted.code
    return admitted.ledger_id


def record_until_full(writer):
    """Record requests until one fails. Returns how many succeeded, and the error."""
    row = RowRecord(request_id="r" * 128, tenant="t" * 128, code=Code.INVALID_INPUT.value)
    number = 0
    with pytest.raises(LedgerUnavailable) as caught:
        while number < 10_000:
            writer.record([[row]])
            number += 1
    return number, caught.value


def test_on_a_full_disk_requests_are_rejected_with_a_declared_error(writer, tmp_path):
    fill(writer)
    num_recorded, error = record_until_full(writer)
    assert isinstance(error, Unavailable)
    assert error.code is Code.LEDGER_UNAVAILABLE
    assert str(error).startswith("ledger_unavailable: the ledger can't be written (database or disk is full)")
    assert len(states(tmp_path)) == num_recorded


def test_service_resumes_when_the_disk_has_room_again(writer, tmp_path):
    fill(writer)
    num_recorded, _ = record_until_full(writer)
    make_room(writer)
    admit(writer)
    assert len(states(tmp_path)) == num_recorded + 1


def test_the_file_is_intact_and_totals_agree_after_a_full_disk(writer, tmp_path):
    fill(writer)
    num_recorded, _ = record_until_full(writer)
    reader = open_database(tmp_path / "ledger.db")
    assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert read_totals(reader)[metric_total.REJECTED, "invalid_input"] == num_recorded


def test_opening_the_metrics_is_not_retried_with_each_request(tmp_path, monkeypatch):
    monkeypatch.setattr("llm_policy.steps.ledger_writer.RETRY_S", 3_600.0)
    writer = LedgerWriter(tmp_path, manifest(), "boot-1")
    with full_disk():
        assert writer.metrics is None
    assert writer.metrics is None
    writer._metrics_retry_s = 0.0
    assert writer.metrics is not None


def test_the_metrics_can_be_read_while_another_thread_writes(tmp_path):
    writer = LedgerWriter(tmp_path, manifest(), "boot-1")
    with writer._lock:
        assert writer.metrics is not None


def break_settling(tmp_path):
    """No row can be closed until `repair`, as on a full disk."""
    open_database(tmp_path / "ledger.db").execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON request BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
    )


def repair(tmp_path):
    open_database(tmp_path / "ledger.db").execute("DROP TRIGGER broken")


def test_an_answer_that_cannot_be_recorded_is_withheld_and_its_row_rejected_later(writer, tmp_path):
    row_id = admit(writer)
    break_settling(tmp_path)
    with pytest.raises(LedgerUnavailable):
        writer.settle([settlement(row_id)])
    repair(tmp_path)
    writer.record([[NEW_ROW]])
    assert states(tmp_path) == ["refused", "admitted"]


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_pending_rejections_are_flushed_without_a_further_request(writer, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_policy.steps.ledger_writer.RETRY_S", 0.05)
    ids = [admit(writer) for _ in range(3)]
    break_settling(tmp_path)
    for row_id in ids:
        with pytest.raises(LedgerUnavailable):
            writer.reject([rejection(row_id, "guidance_unavailable")])
    first = writer._flush_timer
    wait_until(lambda: writer._flush_timer not in (first, None))  # one attempt has failed
    assert states(tmp_path) == ["admitted"] * 3
    repair(tmp_path)
    wait_until(lambda: states(tmp_path) == ["refused"] * 3)


def test_a_lock_that_is_not_free_in_time_rejects_and_keeps_the_connection(writer, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_policy.ledger.database.transaction.__defaults__", (0.05,))
    other = open_database(tmp_path / "ledger.db")
    other.execute("BEGIN IMMEDIATE")
    before = connection(writer)
    with pytest.raises(LedgerUnavailable, match="locked"):
        writer.record([[NEW_ROW]])
    other.execute("ROLLBACK")
    admit(writer)
    assert connection(writer) is before


def test_while_the_draining_file_exists_every_request_is_rejected_as_draining(writer, tmp_path):
    assert writer.admission_error() is None
    (tmp_path / "draining").touch()
    assert writer.admission_error().code is Code.DRAINING


def test_a_full_queue_rejects_requests_before_any_work_is_done(tmp_path):
    engine = {"hash": "sha256:" + "a" * 64, "quantisation": "w4a8", "model": "m", "max_queue_size": 1}
    writer = LedgerWriter(tmp_path, manifest(engine=engine), "boot-1")
    row_id = admit(writer)
    assert writer.refusal(RowRecord(tenant="acme")) is None  # it is not known yet
    ((shed,),) = writer.record([[NEW_ROW]])
    detail = "1 requests of tenant acme wait for their answers, limit 1 (max_queue_size)"
    assert (shed.code, shed.code_detail) == ("overloaded", detail)
    assert str(writer.refusal(RowRecord(tenant="acme"))) == f"overloaded: {detail}"
    assert writer.refusal(RowRecord(tenant="other")) is None
    writer.settle([settlement(row_id)])
    assert writer.refusal(RowRecord(tenant="acme")) is None


# Runs in its own mount namespace: a tmpfs of 1 MiB that fills up, is emptied, and becomes read-only.
DISK_SCENARIO = """
import json, subprocess, sys
from pathlib import Path
from llm_policy.errors import LedgerUnavailable
from llm_policy.steps.ledger_writer import LedgerWriter
from tests.ledgers import settlement
from tests.manifests import manifest
from tests.unit.llm_policy.steps.test_ledger_writer import admit, record_until_full

disk = Path("/mnt")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
writer = LedgerWriter(disk, manifest(), "boot-1")
results = {}
row_id = admit(writer)
(disk / "ballast").write_bytes(b"x" * (200 << 10))
results["num_recorded"], full = record_until_full(writer)
results["full"] = str(full)
(disk / "ballast").unlink()
results["settled_with_room"] = writer.settle([settlement(row_id)])
row_id = admit(writer)
writer._close_ledger()  # a mount with open files can't become read-only
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
try:
    writer.settle([settlement(row_id)])
except LedgerUnavailable as error:
    results["read_only"] = str(error)
subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
new_id = admit(writer)
results["settled_afterwards"] = writer.settle([settlement(new_id)])
connection = writer._open_ledger().connection
results["integrity"] = connection.execute("PRAGMA integrity_check").fetchone()[0]
results["states"] = dict(connection.execute("SELECT state || ':' || code, count(*) FROM request GROUP BY 1"))
print(json.dumps(results))
"""


@needs_mount
def test_a_full_disk_and_a_read_only_disk_reject_requests_and_recover(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", DISK_SCENARIO],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["python_models", "tools", "."])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["full"].startswith("ledger_unavailable: the ledger can't be written (database or disk is full)")
    assert results["settled_with_room"] == [True] == results["settled_afterwards"]
    assert results["read_only"].startswith("ledger_unavailable: the ledger can't be written (")
    assert results["integrity"] == "ok"
    assert results["states"] == {
        "refused:invalid_input": results["num_recorded"],
        "settled:": 2,
        "refused:ledger_unavailable": 1,
    }
