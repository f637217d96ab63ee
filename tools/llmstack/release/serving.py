"""The service of `llmstack serve`: it serves the release of a link and performs the changes in its journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from llm_policy.ledger.database import FILE_NAME as LEDGER_NAME
from llm_policy.ledger.database import NewerLedger
from llm_policy.release.release import Release
from llmstack.events.json_log import json_log
from llmstack.release.change import Change
from llmstack.release.journal import ReleaseJournal
from llmstack.release.switch import Switch
from llmstack.server.error import ServerStartError
from llmstack.server.release import release_errors_as_start_errors
from llmstack.supervision.service import Service
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.state_directory import StateDirectory
from llmstack.supervision.stop_signals import StopSignals


class ServedRelease:
    """The release at `release_dir`, a directory or a link, and the service on it.

    A change that was interrupted is resolved first. `with` opens the service's ports and ends everything; `start` and
    `run` are called in between, on one thread.

    Raises:
        ServerStartError: the release can't be opened, an interrupted change can't be resolved, or see `Service`.
    """

    def __init__(self, release_dir: Path, state: StateDirectory, stop: StopSignals, settings: ServiceSettings) -> None:
        self._switch = Switch(ReleaseJournal(state.path), release_dir, json_log())
        self._interrupted = _resolve_interrupted(self._switch)
        self.service = Service(self._open_release(release_dir), state, stop, settings)

    def __enter__(self) -> ServedRelease:
        self.service.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.service.__exit__(*exception)

    def start(self, on_step: Callable[[str], None]) -> bool:
        """Start the service and end the interrupted change; `on_step` receives a description of each step.

        Returns False when a requested change preempted the start, which `run` then performs.

        Raises:
            ServerStartError: the release's files differ from its manifest, or the server fails a health check.
            StopRequested: a stop is requested.
        """
        try:
            with release_errors_as_start_errors(self.service.release.directory):
                is_healthy = self.service.start(on_step, self._switch.has_pending_change)
        except ServerStartError as error:
            self._fail_interrupted(error)
            raise
        if self._interrupted is not None and is_healthy:
            self._switch.complete_interrupted(self._interrupted)
        return is_healthy

    def run(self, report: Callable[[str], None]) -> None:
        """Watch the server and perform the requested changes until a stop is requested.

        `report` receives a line for each outage and recovery.

        Raises:
            StopRequested: a stop is requested while a change is performed.
        """
        self.service.watch(report, lambda: self._switch.perform_pending(self.service))

    def _open_release(self, release_dir: Path) -> Release:
        try:
            with release_errors_as_start_errors(release_dir):
                return Release.open(release_dir)
        except ServerStartError as error:
            self._fail_interrupted(error)
            raise

    def _fail_interrupted(self, error: ServerStartError) -> None:
        """End the interrupted change, so that it does not block the next one."""
        if self._interrupted is not None:
            self._switch.fail_interrupted(self._interrupted, str(error))


def _resolve_interrupted(switch: Switch) -> Change | None:
    try:
        return switch.resolve_interrupted()
    except NewerLedger as error:
        raise ServerStartError(str(error), error.next_step) from None
    except (sqlite3.Error, OSError) as error:
        raise ServerStartError(
            f"an interrupted change of the release in service can't be resolved: {error}",
            f"make the state directory and {LEDGER_NAME} in it readable and writable",
        ) from None
