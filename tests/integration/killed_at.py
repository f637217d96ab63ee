"""`python -m tests.integration.killed_at STEP serve …`: llmstack, killed by SIGKILL once the journal has the step."""

import os
import signal
import sys
from typing import Any

from llmstack.cli.app import app
from llmstack.release.journal import ReleaseJournal


def main() -> None:
    last_step = sys.argv.pop(1)
    advance = ReleaseJournal.advance

    def advance_and_die(self: ReleaseJournal, change: Any, step: str, *rest: Any) -> bool:
        is_open = advance(self, change, step, *rest)
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return is_open

    ReleaseJournal.advance = advance_and_die  # type: ignore[assignment,method-assign]
    app()


if __name__ == "__main__":
    main()
