"""Executes a change for a command: by the running `llmstack serve`, or without one on a temporary service."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.release.release import Release, ReleaseError
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.due_delivery import deliver_due
from llmstack.events.endpoint import read_endpoints
from llmstack.events.endpoint_lock import EndpointBusy
from llmstack.paths import MODEL_REPOSITORY
from llmstack.release.change import RECOVERING, REFUSED, REQUESTED, Change
from llmstack.release.journal import ReleaseJournal
from llmstack.release.switch import Switch
from llmstack.server.error import ServerStartError
from llmstack.server.process import DEFAULT_START_TIMEOUT_S
from llmstack.supervision.interruption import Preempted
from llmstack.supervision.service import Service
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.state_directory import StateDirectory, StateDirectoryInUse, is_in_use
from llmstack.supervision.stop_signals import StopSignals

POLL_S = 0.2
# A service that died is usually restarted by its supervisor, and then resolves its change itself.
SERVICE_RESTART_PATIENCE_S = 20.0
_EXIT_TIMEOUT_S = 5
# The first attempt may end with a promotion that has to be undone, which is the second attempt.
_MAX_RESOLVE_ATTEMPTS = 2


class ExecutedChange(NamedTuple):
    """A change that has ended, or that a service keeps trying; `is_served`: a service runs on its release now."""

    change: Change
    is_served: bool


class ChangeExecutor:
    """Executes changes of the release behind `link`, with the state in `state_dir`; `report` gets a line per step.

    `pick_engine` returns the engine that serves a release where no service runs.
    """

    def __init__(
        self,
        state_dir: Path,
        link: Path,
        pick_engine: Callable[[Release], str],
        report: Callable[[str], None],
        log: Any,
    ) -> None:
        self.journal = ReleaseJournal(state_dir)
        self.state_dir, self._pick_engine, self._report = state_dir, pick_engine, report
        self._switch = Switch(self.journal, link, log)
        self.link = self._switch.link
        self._log = log

    def resolve_interrupted(self) -> None:
        """Resolve a change that a crash interrupted, unless a service runs: that one does so itself.

        A change whose release can't be brought up ends as failed, so that it does not block the next change.

        Raises:
            ServerStartError: the journal or the state directory can't be written.
            sqlite3.Error: the journal can't be read.
            StopRequested: the process was asked to stop.
        """
        for _ in range(_MAX_RESOLVE_ATTEMPTS):
            if self.journal.open_change() is None:
                return
            try:
                with StateDirectory(self.state_dir, lock_timeout_s=0) as state, StopSignals() as stop:
                    self._resolve_locked(state, stop)
            except StateDirectoryInUse:
                return
            self._deliver_events()

    def execute(self, change: Change) -> ExecutedChange:
        """Wait until the running service has performed `change`, or perform it here where none runs.

        Returns early when the service keeps trying to recover.

        Raises:
            ServerStartError: the state directory can't be written.
            sqlite3.Error: the journal can't be read or written.
            StopRequested: Ctrl-C. A running service continues; a change begun here is resolved by the next command.
        """
        step, free_since_s = "", -math.inf  # where no service has run, there is none to wait for
        while (now := self.journal.change(change.id)).is_open and now.step != RECOVERING:
            if now.step != step:
                self._report(f"{now.kind} of {now.target.name}: {now.step.replace('_', ' ')}")
                step = now.step
            if is_in_use(self.state_dir):
                free_since_s = math.inf
            elif time.monotonic() - free_since_s > SERVICE_RESTART_PATIENCE_S:
                with suppress(StateDirectoryInUse):
                    return self._perform_here(change.id)
            else:
                free_since_s = min(free_since_s, time.monotonic())
            time.sleep(POLL_S)
        return ExecutedChange(now, is_served=not now.is_open)

    def _resolve_locked(self, state: StateDirectory, stop: StopSignals) -> None:
        """`resolve_interrupted` while this process holds the state directory."""
        change = self._switch.resolve_interrupted()
        if change is not None:
            self._report(f"resolving the interrupted {change.kind} of {change.target.name}")
            try:
                self._bring_up_interrupted(state, stop, change)
            except (ServerStartError, ReleaseError, Preempted) as error:
                self._report(f"its release can't be brought up: {error}")
                self._switch.fail_interrupted(change, str(error))
        self._switch.record.flush()

    def _perform_here(self, change_id: int) -> ExecutedChange:
        with StateDirectory(self.state_dir, lock_timeout_s=0) as state, StopSignals() as stop:
            change = self.journal.change(change_id)
            if not change.is_open:  # a service has just ended it
                return ExecutedChange(change, is_served=False)
            if change.step != REQUESTED:  # a service began it and died
                self._resolve_locked(state, stop)
            else:
                self._perform_offline(state, stop, change)
            self._switch.record.flush()
        self._deliver_events()
        return ExecutedChange(self.journal.change(change_id), is_served=False)

    def _perform_offline(self, state: StateDirectory, stop: StopSignals, change: Change) -> None:
        self._report("no llmstack serve runs on this state directory: a temporary server checks the release")
        try:
            target = Release.open(change.target.directory)
        except ReleaseError as error:
            self._switch.record.reject(change, REFUSED, str(error))
            return
        with self._service(state, stop, target) as service:
            service.prepare(self._report, self._switch.has_pending_change)
            self._switch.perform_offline(service, change)
            service.stop_server()

    def _bring_up_interrupted(self, state: StateDirectory, stop: StopSignals, change: Change) -> None:
        """Start and check the release behind the link, and close the interrupted change."""
        with self._service(state, stop, Release.open(self.link)) as service:
            service.prepare(self._report, self._switch.has_pending_change)
            service.bring_up(lambda phase: None, None)
            self._switch.complete_interrupted(change)
            service.stop_server()

    def _service(self, state: StateDirectory, stop: StopSignals, release: Release) -> Service:
        settings = ServiceSettings(
            pick_engine=self._pick_engine,
            model_repository=Path(os.environ.get("LLMSTACK_MODEL_REPOSITORY") or MODEL_REPOSITORY),
            start_timeout_s=float(os.environ.get("LLMSTACK_START_TIMEOUT_S") or DEFAULT_START_TIMEOUT_S),
            exit_timeout_s=_EXIT_TIMEOUT_S,
        )
        return Service(release, state, stop, settings)

    def _deliver_events(self) -> None:
        """Deliver the events due now, since no service does; what fails waits for the next service."""
        try:
            deliver_due(self.state_dir, read_endpoints(os.environ), DeliverySettings(), self._log)
        except (ServerStartError, EndpointBusy, OSError, sqlite3.Error) as error:
            self._report(f"the event waits for the next llmstack serve: {error}")
