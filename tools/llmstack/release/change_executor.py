"""Has a change performed: by the `llmstack serve` that runs, or, where none does, by a service for the proof alone."""

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
from llmstack.release import journal
from llmstack.release.journal import Change, ReleaseJournal
from llmstack.release.switch import Switch
from llmstack.server.error import ServerStartError
from llmstack.server.process import DEFAULT_START_TIMEOUT_S
from llmstack.supervision.preemption import Preempted
from llmstack.supervision.service import Service
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.state_directory import StateDirectory, StateDirectoryTaken, is_taken
from llmstack.supervision.stop_signals import StopSignals

POLL_S = 0.2
# A service that died is started again by whoever keeps it alive, and settles its change itself.
GRACE_S = 20.0
_EXIT_S = 5
# A proven promotion that can't be proven again is taken back, and that may fail too.
_NUM_ATTEMPTS = 2


class ExecutedChange(NamedTuple):
    """A change that ended or that a service goes on trying, and whether a service runs on its release now."""

    change: Change
    is_served: bool


class ChangeExecutor:
    """Changes of what `link` leads to, with the state in `state_dir`; `report` gets a line for each step.

    `pick_engine` says which engine serves a release where no service runs.
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
        self._state_dir, self._pick_engine, self._report = state_dir, pick_engine, report
        self._switch = Switch(self.journal, link, log)
        self.link = self._switch.link
        self._log = log

    def settle(self) -> None:
        """Make right what a crash left open, unless a service runs, which does so itself.

        What can't be proven any more ends as failed, which is reported: whatever is asked for next may go on.

        Raises:
            ServerStartError: the journal or the state directory can't be written.
            sqlite3.Error: the journal can't be read.
            StopRequested: somebody asked to stop meanwhile.
        """
        for _ in range(_NUM_ATTEMPTS):
            if self.journal.open_change() is None:
                return
            try:
                with StateDirectory(self._state_dir, lock_patience_s=0) as state, StopSignals() as stop:
                    self._settle_here(state, stop)
            except StateDirectoryTaken:
                return
            self._deliver()

    def carry_out(self, change: Change) -> ExecutedChange:
        """Wait for a running service to perform `change`, or perform it here. One that the service goes on trying is
        not waited for.

        Raises:
            ServerStartError: the state directory can't be written.
            sqlite3.Error: the journal can't be read or written.
            StopRequested: Ctrl-C; a running service goes on, and what was begun here is settled by the next command.
        """
        step, free_since_s = "", -math.inf  # nobody has worked there: no need to wait for anybody
        while (now := self.journal.change(change.id)).is_open and now.step != journal.RECOVERING:
            if now.step != step:
                self._report(f"{now.kind} of {now.target.name}: {now.step.replace('_', ' ')}")
                step = now.step
            if is_taken(self._state_dir):
                free_since_s = math.inf
            elif time.monotonic() - free_since_s > GRACE_S:
                with suppress(StateDirectoryTaken):
                    return self._perform_here(change.id)
            else:
                free_since_s = min(free_since_s, time.monotonic())
            time.sleep(POLL_S)
        return ExecutedChange(now, is_served=not now.is_open)

    def _settle_here(self, state: StateDirectory, stop: StopSignals) -> None:
        change = self._switch.resolve_interrupted()
        if change is not None:
            self._report(f"settling the {change.kind} of {change.target.name} that was interrupted")
            try:
                self._prove(state, stop, change)
            except (ServerStartError, ReleaseError, Preempted) as error:
                self._report(f"that could not be proven: {error}")
                self._switch.fail_interrupted(change, str(error))
        self._switch.record.flush()

    def _perform_here(self, change_id: int) -> ExecutedChange:
        with StateDirectory(self._state_dir, lock_patience_s=0) as state, StopSignals() as stop:
            change = self.journal.change(change_id)
            if not change.is_open:  # a service ended it a moment ago
                return ExecutedChange(change, is_served=False)
            if change.step != journal.REQUESTED:  # a service began it, and is gone
                self._settle_here(state, stop)
            else:
                self._perform_alone(state, stop, change)
            self._switch.record.flush()
        self._deliver()
        return ExecutedChange(self.journal.change(change_id), is_served=False)

    def _perform_alone(self, state: StateDirectory, stop: StopSignals, change: Change) -> None:
        self._report("no llmstack serve works on this state directory: the release is proven on a server of its own")
        try:
            target = Release.open(change.target.directory)
        except ReleaseError as error:
            self._switch.record.refused(change, journal.REFUSED, str(error))
            return
        with self._service(state, stop, target) as service:
            service.prepare(self._report, self._switch.has_pending_change)
            self._switch.perform_offline(service, change)
            service.stop_server()

    def _prove(self, state: StateDirectory, stop: StopSignals, change: Change) -> None:
        """Prove what the link leads to after `settle`, and close the change."""
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
            exit_timeout_s=_EXIT_S,
        )
        return Service(release, state, stop, settings)

    def _deliver(self) -> None:
        """Send what is due now: no service does. What can't be sent waits for the next one."""
        try:
            deliver_due(self._state_dir, read_endpoints(os.environ), DeliverySettings(), self._log)
        except (ServerStartError, EndpointBusy, OSError, sqlite3.Error) as error:
            self._report(f"the event waits for the next llmstack serve: {error}")
