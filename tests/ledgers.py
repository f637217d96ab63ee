"""A ledger in a temporary directory, written in the same way as by the stubs."""

import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.ledger import Ledger
from llm_policy.ledger.metric_total import read_totals
from llm_policy.ledger.row_record import RowRecord
from tests.manifests import ENGINE_HASH, manifest

NEW_ROW = RowRecord(
    request_id="r-1",
    tenant="acme",
    task="judge",
    schema_id="order",
    num_prompt_tokens=500,
    projected_nano_usd=200_000,
    prompt_nano_usd=50_000,
)


@contextmanager
def full_disk() -> Iterator[None]:
    """Limit this process's files to 4,096 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def open_ledger(
    path: Path, boot_id: str = "boot-1", max_queue_size: int = 64, max_queue_tokens: int = 200_000, **changes: Any
) -> Ledger:
    """The ledger of one process in the state directory `path`."""
    engine = {
        "hash": ENGINE_HASH,
        "quantisation": "w4a8",
        "model": "Qwen3-32B",
        "max_queue_size": max_queue_size,
        "max_queue_tokens": max_queue_tokens,
    }
    return Ledger(open_database(path / FILE_NAME), manifest(engine=engine, **changes), boot_id)


def admit(ledger: Ledger, row: RowRecord = NEW_ROW, now_ns: int | None = None) -> int:
    """Admit one request of one row. Returns the row's id."""
    ((admitted,),) = ledger.record([[row]], now_ns)
    assert not admitted.code
    return admitted.ledger_id


def sheds(ledger: Ledger, num_requests: int = 1, now_ns: int | None = None) -> list[bool]:
    """Record `num_requests` requests in one batch. Returns for each whether it was shed."""
    return [rows[0].code == "overloaded" for rows in ledger.record([[NEW_ROW]] * num_requests, now_ns)]


def settlement(ledger_id: int, row: RowRecord = NEW_ROW, flags: Any = (), **changes: Any) -> RowRecord:
    """The record of an answered row."""
    answered = row._replace(
        ledger_id=ledger_id,
        num_completion_tokens=40,
        actual_nano_usd=row.prompt_nano_usd + 12_000,
        queue_delay_us=900,
        flags=tuple(flags),
    )
    return answered._replace(**changes)


def rejection(ledger_id: int, code: str, row: RowRecord = NEW_ROW) -> RowRecord:
    """The record of an admitted row that is rejected later."""
    return row._replace(ledger_id=ledger_id, code=code)


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Every row of the table `request`, oldest first."""
    cursor = ledger.connection.execute("SELECT * FROM request ORDER BY id")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def states(ledger: Ledger) -> Counter[str]:
    return Counter(row["state"] for row in rows(ledger))


def total(ledger: Ledger, name: str, labels: str = "") -> int:
    return read_totals(ledger.connection)[name, labels]


def events(ledger: Ledger, endpoint: str = "readiness") -> list[dict[str, Any]]:
    """The `data` of the events for one endpoint, oldest first."""
    found = ledger.connection.execute(
        "SELECT body FROM event JOIN delivery ON event_sequence = sequence WHERE endpoint = ? ORDER BY sequence",
        (endpoint,),
    )
    return [json.loads(body)["data"] for (body,) in found]
