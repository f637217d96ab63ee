"""What the parent does each second besides watching: the ledger's clock, figures for `/readyz`, the log's bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llmstack.events.delivery_service import DeliveryService
from llmstack.server.log import rotate_log
from llmstack.supervision.ledger_access import LedgerAccess
from llmstack.supervision.readiness import DELIVERY, LEDGER, STATE_DIRECTORY, Readiness
from llmstack.supervision.state_directory import StateDirectory
from llmstack.supervision.supervisor import Supervisor

TURN_S = 1.0
SLOW_TURNS = 5
HOUSEKEEPING = "housekeeping"


class Housekeeping:
    """One thread; `with` starts and ends it. A fault of one chore makes the service unready and stops no other."""

    def __init__(
        self,
        supervisor: Supervisor,
        state: StateDirectory,
        books: LedgerAccess,
        deliveries: DeliveryService,
        max_log_bytes: int,
    ) -> None:
        self._supervisor, self._state, self._books, self._deliveries = supervisor, state, books, deliveries
        self._readiness: Readiness = supervisor.readiness
        self._max_log_bytes = max_log_bytes
        self._log_fault = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=HOUSEKEEPING, daemon=True)

    def __enter__(self) -> Housekeeping:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join(timeout=10)

    def turn(self, number: int) -> None:
        """All that is due at this second."""
        self._readiness.pulse(HOUSEKEEPING)
        self._attempt(LEDGER, self._keep_books)
        if number % SLOW_TURNS == 0:
            self._attempt(STATE_DIRECTORY, self._state.check_writable)
            self._bound_log()
            self._attempt(DELIVERY, self._look_after_deliveries)

    def _run(self) -> None:
        number = 0
        while True:
            self.turn(number)
            number += 1
            if self._closing.wait(TURN_S):
                return self.turn(0)  # what ended with the last requests

    def _attempt(self, part: str, chore: Callable[[], None]) -> None:
        try:
            chore()
        except Exception as error:
            self._readiness.set_problem(part, str(error) or type(error).__name__)
        else:
            self._readiness.set_problem(part, "")

    def _keep_books(self) -> None:
        boot_id = self._supervisor.live_boot_id
        statistics = self._supervisor.statistics()
        now_ns = time.time_ns()
        if statistics is not None and boot_id:
            self._books.set_unanswered(boot_id, statistics.num_dead)
        self._books.close_unanswered(now_ns, boot_id)
        self._books.close_due_windows(now_ns)
        self._books.forget_canaries(now_ns)
        self._books.checkpoint()

    def _bound_log(self) -> None:
        """A log that can't be cut is told once, and keeps nobody from being served."""
        fault = ""
        try:
            rotate_log(self._supervisor.server.log_path, self._max_log_bytes)
        except OSError as error:
            fault = f"the server's log can't be cut: {error}"
        if fault and fault != self._log_fault:
            self._supervisor.report(fault)
        self._log_fault = fault

    def _look_after_deliveries(self) -> None:
        self._deliveries.prune_old_events()
        self._readiness.set_figures(self._books.window(time.time_ns()), self._deliveries.backlog())
