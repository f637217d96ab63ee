"""What may go wrong while a change is made, as an operator is told it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from llm_policy.ledger.database import FILE_NAME
from llm_policy.release.release import ReleaseError
from llmstack.cli.terminal import DIFFERENT, fail
from llmstack.server.error import ServerStartError
from llmstack.supervision.stop_signals import StopRequested


@contextmanager
def operator_faults() -> Iterator[None]:
    """End the command with 1, saying what went wrong and what to do next, when what is done inside can't be."""
    try:
        yield
    except ServerStartError as error:
        fail(error, error.next_step, DIFFERENT)
    except ReleaseError as error:
        fail(error, "llmstack manifest verify DIR shows what belongs there", DIFFERENT)
    except sqlite3.Error as error:
        fail(
            f"the journal of releases, {FILE_NAME} in the state directory, can't be used: {error}",
            "make room and the file readable and writable; LLMSTACK_STATE_DIR (--state-dir) says which directory it is",
            DIFFERENT,
        )
    except OSError as error:
        fail(described(error), "make the artifacts and the state directory writable, and make room", DIFFERENT)
    except (StopRequested, KeyboardInterrupt):
        fail("interrupted", "llmstack release status shows how far it came; the next command settles it", DIFFERENT)


def described(error: OSError) -> str:
    """What an error of the system says, with the file where it names one: not every one has both."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason
