"""The connection to a state directory's ledger.db, for commands that read it or its outbox."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from llmstack.cli.terminal import fail


@contextmanager
def ledger_connection(
    state_dir: Path, connect: Callable[[], sqlite3.Connection], next_step: str
) -> Iterator[sqlite3.Connection]:
    """What `connect` opens; exits when the file is missing or, with `next_step`, when it can't be used."""
    from llm_policy.ledger.database import FILE_NAME, NewerLedger

    path = state_dir / FILE_NAME
    if not path.is_file():
        fail(f"{state_dir} has no {FILE_NAME}", "set --state-dir (or LLMSTACK_STATE_DIR) to the server's directory")
    try:
        with closing(connect()) as connection:
            yield connection
    except NewerLedger as error:
        fail(f"{state_dir}: {error}", error.next_step)
    except sqlite3.Error as error:
        fail(f"{path}: {error}", next_step)
