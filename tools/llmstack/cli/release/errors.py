"""The error messages that release commands share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from llmstack.cli.terminal import EXIT_FAILED, fail
from llmstack.server.error import ServerStartError


@contextmanager
def exit_on_change_errors() -> Iterator[None]:
    """Exit with 1 when a change fails inside, printing the error and the next step."""
    from llm_policy.ledger.database import FILE_NAME
    from llm_policy.release.release import ReleaseError
    from llmstack.supervision.stop_signals import StopRequested

    try:
        yield
    except ServerStartError as error:
        fail(error, error.next_step, EXIT_FAILED)
    except ReleaseError as error:
        fail(error, "llmstack manifest verify DIR lists the files that differ", EXIT_FAILED)
    except sqlite3.Error as error:
        fail(
            f"the journal of releases, {FILE_NAME} in the state directory, can't be used: {error}",
            "free disk space and make the file readable and writable; --state-dir (LLMSTACK_STATE_DIR) names the "
            "directory",
            EXIT_FAILED,
        )
    except OSError as error:
        fail(
            os_error_text(error), "make the artifacts and state directories writable, and free disk space", EXIT_FAILED
        )
    except (StopRequested, KeyboardInterrupt):
        fail(
            "interrupted",
            "llmstack release status shows the step it reached; the next command resolves it",
            EXIT_FAILED,
        )


def os_error_text(error: OSError) -> str:
    """The reason of an OSError, after the file if it names one; some have neither `strerror` nor `filename`."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason
