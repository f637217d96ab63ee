"""A stub's books when the disk takes nothing: what is refused, and how service returns."""

import json
import os
import subprocess
import sys
import time

import pytest

from llm_policy.errors import Code, PolicyError
from llm_policy.ledger import metric_total
from llm_policy.ledger.database import open_database
from llm_policy.ledger.ledger import NewRow
from llm_policy.ledger.metric_total import read_totals
from llm_policy.steps.ledger_writer import RETRY_S, LedgerUnavailable, LedgerWriter
from tests.ledgers import NEW_ROW, full_disk, open_row, settlement
from tests.manifests import manifest

# Unmounted with the namespace of the child that mounts it, whatever becomes of the test.
_MOUNTS = subprocess.run(
    ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
)
needs_mount = pytest.mark.skipif(_MOUNTS.returncode != 0, reason="needs the right to mount a small tmpfs (root)")


@pytest.fixture
def books(tmp_path):
    opened = LedgerWriter(tmp_path, manifest(), "boot-1")
    opened.open()
    return opened


def connection(books):
    """The connection that the books write with."""
    return books._open_ledger().connection


def fill(books):
    """No page more for the database, as on a full disk."""
    connection(books).execute("PRAGMA max_page_count = 1")


def make_room(books):
    connection(books).execute("PRAGMA max_page_count = 1000000")


def states(tmp_path):
    return [row[0] for row in open_database(tmp_path / "ledger.db").execute("SELECT state FROM request ORDER BY id")]


def enter_until_full(books):
    """Enter requests until one does not fit; how many did."""
    entry = NewRow("r" * 128, "t" * 128, code=Code.INVALID_INPUT.value)
    number = 0
    with pytest.raises(LedgerUnavailable) as refused:
        while number < 10_000:
            books.record([[entry]])
            number += 1
    return number, refused.value


def test_on_a_full_disk_requests_are_refused_with_a_declared_error(books, tmp_path):
    fill(books)
    num_entered, refusal = enter_until_full(books)
    assert isinstance(refusal, PolicyError)
    assert refusal.code is Code.INTERNAL
    assert str(refusal).startswith("internal: the ledger can't be written (database or disk is full)")
    assert len(states(tmp_path)) == num_entered


def test_service_returns_by_itself_when_there_is_room_again(books, tmp_path):
    fill(books)
    num_entered, _ = enter_until_full(books)
    make_room(books)
    assert not books.record([[NEW_ROW]])[0].is_shed
    assert len(states(tmp_path)) == num_entered + 1


def test_nothing_is_corrupt_and_totals_agree_after_a_full_disk(books, tmp_path):
    fill(books)
    num_entered, _ = enter_until_full(books)
    reader = open_database(tmp_path / "ledger.db")
    assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert read_totals(reader)[metric_total.REJECTED, "invalid_input"] == num_entered


def test_measurements_that_find_no_room_are_not_tried_again_with_each_request(tmp_path, monkeypatch):
    monkeypatch.setattr("llm_policy.steps.ledger_writer.RETRY_S", 3_600.0)
    books = LedgerWriter(tmp_path, manifest(), "boot-1")
    with full_disk():
        assert books.metrics is None
    assert books.metrics is None
    books._metrics_retry_s = 0.0
    assert books.metrics is not None


def break_settling(tmp_path):
    """No row can be closed until `mend`: as when the disk is full just then."""
    open_database(tmp_path / "ledger.db").execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON request BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
    )


def mend(tmp_path):
    open_database(tmp_path / "ledger.db").execute("DROP TRIGGER broken")


def test_an_answer_that_cannot_be_written_is_withdrawn_and_its_row_refused_later(books, tmp_path):
    (((row_id,), _),) = books.record([[NEW_ROW]])
    break_settling(tmp_path)
    with pytest.raises(LedgerUnavailable):
        books.settle([settlement(row_id)])
    mend(tmp_path)
    books.record([[NEW_ROW]])
    assert states(tmp_path) == ["refused", "admitted"]


def test_owed_refusals_are_written_though_nobody_asks_any_more(books, tmp_path):
    ids = [books.record([[NEW_ROW]])[0].ids[0] for _ in range(3)]
    break_settling(tmp_path)
    for row_id in ids:
        with pytest.raises(LedgerUnavailable):
            books.reject([open_row(row_id)], "guidance_unavailable")
    time.sleep(1.5 * RETRY_S)  # one attempt in vain
    assert states(tmp_path) == ["admitted"] * 3
    mend(tmp_path)
    deadline = time.monotonic() + 30
    while states(tmp_path) != ["refused"] * 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert states(tmp_path) == ["refused"] * 3


def test_a_lock_that_is_not_free_in_time_refuses_and_keeps_the_connection(books, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_policy.ledger.database.transaction.__wrapped__.__defaults__", (0.05,))
    other = open_database(tmp_path / "ledger.db")
    other.execute("BEGIN IMMEDIATE")
    before = connection(books)
    with pytest.raises(LedgerUnavailable, match="locked"):
        books.record([[NEW_ROW]])
    other.execute("ROLLBACK")
    assert not books.record([[NEW_ROW]])[0].is_shed
    assert connection(books) is before


def test_while_the_mark_is_there_every_request_is_refused_as_draining(books, tmp_path):
    assert books.admission_error() is None
    (tmp_path / "draining").touch()
    assert books.admission_error().code is Code.DRAINING


def test_a_full_queue_closes_the_gateway_before_any_work_is_done(tmp_path):
    engine = {"hash": "sha256:" + "a" * 64, "quantisation": "w4a8", "model": "m", "max_queue_size": 1}
    books = LedgerWriter(tmp_path, manifest(engine=engine), "boot-1")
    (((row_id,), _),) = books.record([[NEW_ROW]])
    assert str(books.admission_error()) == "overloaded: 1 requests wait for their answers, limit 1 (max_queue_size)"
    books.settle([settlement(row_id)])
    assert books.admission_error() is None


# Run in a mount namespace of its own: a tmpfs of 1 MiB that fills up, is emptied, and becomes read-only.
DISK_STORY = """
import json, subprocess, sys
from pathlib import Path
from llm_policy.steps.ledger_writer import LedgerWriter, LedgerUnavailable
from tests.ledgers import NEW_ROW, settlement
from tests.manifests import manifest
from tests.unit.llm_policy.steps.test_ledger_writer import enter_until_full

disk = Path("/mnt")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
books = LedgerWriter(disk, manifest(), "boot-1")
told = {}
(((row_id,), _),) = books.record([[NEW_ROW]])
(disk / "ballast").write_bytes(b"x" * (200 << 10))
told["num_entered"], full = enter_until_full(books)
told["full"] = str(full)
(disk / "ballast").unlink()
told["settled_with_room"] = books.settle([settlement(row_id)])
(((row_id,), _),) = books.record([[NEW_ROW]])
books._close_ledger()  # as a stub that starts anew; an open file keeps a mount from becoming read-only
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
try:
    books.settle([settlement(row_id)])
except LedgerUnavailable as refusal:
    told["read_only"] = str(refusal)
subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
(((new_id,), _),) = books.record([[NEW_ROW]])
told["settled_at_last"] = books.settle([settlement(new_id)])
connection = books._open_ledger().connection
told["integrity"] = connection.execute("PRAGMA integrity_check").fetchone()[0]
told["states"] = dict(connection.execute("SELECT state || ':' || code, count(*) FROM request GROUP BY 1"))
print(json.dumps(told))
"""


@needs_mount
def test_a_full_and_a_read_only_disk_refuse_and_recover(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", DISK_STORY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["python_models", "tools", "."])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["full"].startswith("internal: the ledger can't be written (database or disk is full)")
    assert told["settled_with_room"] == [True] == told["settled_at_last"]
    assert told["read_only"].startswith("internal: the ledger can't be written (")
    assert told["integrity"] == "ok"
    assert told["states"] == {
        "refused:invalid_input": told["num_entered"],
        "settled:": 2,
        "refused:internal": 1,
    }
