"""Periodic work of the parent process: ledger maintenance, statistics for `/readyz`, log rotation, old deliveries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llm_policy.ledger.size_budget import OK
from llmstack.events.delivery_service import DeliveryService
from llmstack.server.engine_process import LOG_NAME as ENGINE_LOG
from llmstack.server.log import rotate_log
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from llmstack.supervision.readiness import DELIVERY, LEDGER, STATE_DIRECTORY, Readiness
from llmstack.supervision.state_directory import StateDirectory
from llmstack.supervision.supervisor import Supervisor

TICK_S = 1.0
SLOW_TICKS = 5  # the state directory, the log and the deliveries are checked every so many ticks
HOUSEKEEPING = "housekeeping"
RAISE_BUDGET = "raise --max-ledger-mib and the disk, or continue with another state directory"


class Housekeeping:
    """One thread; `with` starts and ends it. A task that fails marks the service unready; the other tasks still run."""

    def __init__(
        self,
        supervisor: Supervisor,
        state: StateDirectory,
        ledger: LedgerMaintenance,
        deliveries: DeliveryService,
        max_log_bytes: int,
        max_ledger_bytes: int = 0,
    ) -> None:
        self._supervisor, self._state, self._ledger, self._deliveries = supervisor, state, ledger, deliveries
        self._readiness: Readiness = supervisor.readiness
        self._max_log_bytes, self._max_ledger_bytes = max_log_bytes, max_ledger_bytes
        self._reported: dict[str, str] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=HOUSEKEEPING, daemon=True)

    def __enter__(self) -> Housekeeping:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join(timeout=10)

    def tick(self, number: int) -> None:
        """Run every task that is due at tick `number`."""
        self._readiness.pulse(HOUSEKEEPING)
        self._attempt(LEDGER, self._maintain_ledger)
        if number % SLOW_TICKS == 0:
            self._attempt(STATE_DIRECTORY, self._state.check_writable)
            self._rotate_logs()
            self._keep_ledger_budget()
            self._attempt(DELIVERY, self._maintain_deliveries)

    def _run(self) -> None:
        number = 0
        while True:
            self.tick(number)
            number += 1
            if self._closing.wait(TICK_S):
                return self.tick(0)  # a last time, after the last requests

    def _attempt(self, part: str, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:
            self._readiness.set_problem(part, str(error) or type(error).__name__)
        else:
            self._readiness.set_problem(part, "")

    def _maintain_ledger(self) -> None:
        boot_id = self._supervisor.live_boot_id
        statistics = self._supervisor.statistics()
        now_ns = time.time_ns()
        if statistics is not None and boot_id:
            self._ledger.record_dead_requests(boot_id, statistics.num_failed_after_admission)
        self._ledger.close_unanswered(now_ns, boot_id)
        self._ledger.close_due_windows(now_ns)
        self._ledger.delete_old_canaries(now_ns)
        self._ledger.checkpoint()

    def _rotate_logs(self) -> None:
        """Rotate the logs of the server and the engine; a failure is reported once and leaves the service ready."""
        server_log = self._supervisor.server.log_path
        for owner, path in (("server", server_log), ("engine", server_log.with_name(ENGINE_LOG))):
            error_text = ""
            try:
                rotate_log(path, self._max_log_bytes)
            except OSError as error:
                error_text = f"the {owner}'s log can't be rotated: {error}"
            self._report_once(f"{owner} log", error_text)

    def _keep_ledger_budget(self) -> None:
        """Keep the ledger's size budget; a warning or a failure is reported once and leaves the service ready."""
        text = ""
        try:
            size = self._ledger.keep_budget(time.time_ns(), self._max_ledger_bytes)
        except Exception as error:
            text = f"the ledger's size budget can't be kept: {error}"
        else:
            self._readiness.set_ledger_size(size)
            if size.level != OK:
                text = f"the ledger is {size.level} its size budget of {size.max_bytes >> 20} MiB: {RAISE_BUDGET}"
        self._report_once("ledger size", text)

    def _report_once(self, part: str, text: str) -> None:
        if text and text != self._reported.get(part):
            self._supervisor.report(text)
        self._reported[part] = text

    def _maintain_deliveries(self) -> None:
        self._deliveries.prune_old_events()
        self._readiness.set_statistics(self._ledger.window(time.time_ns()), self._deliveries.backlog())
