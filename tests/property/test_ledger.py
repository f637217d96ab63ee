"""Properties of the ledger under any order of operations: totals are sums over rows, and no breach is lost."""

import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from llm_policy.ledger import alerts, metric_total, rejection_count
from llm_policy.ledger.database import transaction
from llm_policy.ledger.ledger import RULE_OF_FLAG
from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.size_budget import keep_budget
from llm_policy.release.manifest import TASKS
from llmstack.ledger.verification import verify
from tests.hypothesis_profiles import num_examples
from tests.ledgers import events, open_ledger, rejection, rows, settlement
from tests.survivors import check_survivors

FLAGS = (*RULE_OF_FLAG, "truncated")
TENANTS = ("acme", "globex", "")
CODES = ("invalid_input", "token_budget_overrun", "internal", "missing_header")
PROCESSES = st.integers(0, 1)

new_rows = st.fixed_dictionaries(
    {
        "request_id": st.sampled_from(["r-1", "r-2", ""]),
        "tenant": st.sampled_from(TENANTS),
        "task": st.sampled_from([*TASKS, ""]),
        "schema_id": st.sampled_from(["order", ""]),
        "is_canary": st.integers(0, 4).map(lambda n: n == 0),
        "num_prompt_tokens": st.integers(0, 4_096),
        "projected_nano_usd": st.integers(0, 10**15),
        "prompt_nano_usd": st.integers(0, 10**12),
    }
).map(lambda fields: RowRecord(**cast(dict[str, Any], fields)))


def of_one_request(rows):
    return [row._replace(is_canary=rows[0].is_canary, row_number=number) for number, row in enumerate(rows)]


class LedgerMachine(RuleBasedStateMachine):
    """Two connections like those of two stubs, interleaved with the parent process's maintenance."""

    num_failures = num_failures_drawn = 0
    admitted = Bundle("admitted")
    answered = Bundle("answered")

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.now_ns = time.time_ns()
        self.num_boots = 1
        self.breaches = Counter()
        self.costly = []
        self.open()

    def open(self):
        path, boot_id = Path(self.directory.name), f"boot-{self.num_boots}"
        self.ledgers = [open_ledger(path, boot_id=boot_id, max_queue_size=6) for _ in range(2)]

    def teardown(self):
        self.close()
        self.directory.cleanup()

    def close(self):
        for ledger in self.ledgers:
            ledger.connection.close()

    @rule(target=admitted, process=PROCESSES, batch=st.lists(st.lists(new_rows, min_size=1, max_size=3), max_size=3))
    def record(self, process, batch):
        recorded = self.ledgers[process].record([of_one_request(rows) for rows in batch], self.now_ns)
        return multiple(*((row.ledger_id, row) for rows in recorded for row in rows if not row.code))

    @rule(process=PROCESSES, request=st.lists(new_rows, min_size=1, max_size=3), code=st.sampled_from(CODES))
    def record_rejected(self, process, request, code):
        rejected = [row._replace(code=code) for row in of_one_request(request)]
        self.ledgers[process].record([rejected], self.now_ns)

    @rule(
        target=answered,
        process=PROCESSES,
        row=consumes(admitted),
        flags=st.sets(st.sampled_from(FLAGS)),
        num_tokens=st.integers(0, 2_000),
    )
    def settle(self, process, row, flags, num_tokens):
        row_id, new_row = row
        cost = new_row.prompt_nano_usd + num_tokens * 300
        answer = settlement(row_id, new_row, sorted(flags), num_completion_tokens=num_tokens, actual_nano_usd=cost)
        assert self.ledgers[process].settle([answer], self.now_ns) == [True]
        self.count_breaches(answer, flags)
        return answer

    @rule(process=PROCESSES, answer=answered)
    def settle_again(self, process, answer):
        assert self.ledgers[process].settle([answer], self.now_ns) == [False]

    @rule(process=PROCESSES, row=consumes(admitted), code=st.sampled_from(CODES))
    def reject(self, process, row, code):
        self.ledgers[process].reject([rejection(row[0], code, row[1])], self.now_ns)

    @rule(process=PROCESSES, good=admitted, bad=admitted)
    def fail(self, process, good, bad):
        """A transaction that fails changes nothing. It needs two rows."""
        type(self).num_failures_drawn += 1
        if good[0] == bad[0]:
            return
        type(self).num_failures += 1
        answers = [settlement(good[0], good[1], ["cost_breach"]), settlement(*bad, actual_nano_usd=None)]
        # A late answer's cost is compared with what is charged already before it reaches the database.
        with pytest.raises((sqlite3.IntegrityError, TypeError)):
            self.ledgers[process].settle(answers, self.now_ns)

    @rule(max_open_s=st.sampled_from([0.0, 30.0, 600.0]))
    def close_unanswered(self, max_open_s):
        self.ledgers[0].close_unanswered(self.now_ns, max_open_s)

    @rule(seconds=st.sampled_from([1, 20, 59, 61, 300, 3_700, 8 * 86_400]))
    def wait(self, seconds):
        self.now_ns += seconds * 1_000_000_000

    @rule(process=PROCESSES)
    def close_windows(self, process):
        with transaction(self.ledgers[process].connection):
            alerts.close_due_windows(self.ledgers[process].connection, self.now_ns)

    @rule(process=PROCESSES, max_bytes=st.sampled_from([0, 1, 1 << 40]))
    def keep_budget(self, process, max_bytes):
        keep_budget(self.ledgers[process].connection, max_bytes, self.now_ns)

    @rule(process=PROCESSES)
    def roll_up(self, process):
        with transaction(self.ledgers[process].connection):
            rejection_count.roll_up(self.ledgers[process].connection, self.now_ns)

    @rule()
    def restart(self):
        self.close()
        self.num_boots += 1
        self.open()

    def count_breaches(self, answer, flags):
        if answer.is_canary:
            return
        self.breaches.update(RULE_OF_FLAG[flag] for flag in flags if flag in RULE_OF_FLAG)
        if "cost_breach" in flags:
            self.costly.append(answer.ledger_id)

    def only_counted(self):
        """The rejected rows that are only counted: their code and task."""
        found = self.ledgers[0].connection.execute("SELECT code, task, num_rows FROM rejection_count")
        return [(code, task) for code, task, number in found for _ in range(number)]

    @invariant()
    def a_minute_has_a_limited_sample(self):
        found = self.ledgers[0].connection.execute(
            "SELECT count(*) FROM request WHERE state = 'refused' AND canary = 0 AND tenant = '' "
            "AND code <> 'internal' GROUP BY closed_ns / 60000000000, code"
        )
        assert all(number <= SAMPLE_ROWS + 2 * self.num_boots for (number,) in found)

    @invariant()
    def totals_are_sums_over_rows(self):
        charged = [row for row in rows(self.ledgers[0]) if not row["canary"] and row["state"] != "admitted"]
        used = [row for row in charged if row["state"] != "refused"]
        totals = metric_total.read_totals(self.ledgers[1].connection)
        assert totals[metric_total.COST, ""] == sum(row["actual_nano_usd"] for row in charged)
        assert totals[metric_total.TOKENS_IN, ""] == sum(row["num_prompt_tokens"] for row in used)
        assert totals[metric_total.TOKENS_OUT, ""] == sum(row["num_completion_tokens"] for row in used)
        outcomes = Counter()
        for row in charged:
            task = row["task"] or metric_total.NO_TASK
            outcomes[f"{task},{row['swept_as'] or row['state']}"] += 1
            outcomes[f"{task},{metric_total.LATE}"] += bool(row["swept_as"])
        only_counted = self.only_counted()
        outcomes.update(f"{task or metric_total.NO_TASK},refused" for _, task in only_counted)
        assert {
            labels: value for (name, labels), value in totals.items() if name == metric_total.REQUESTS and value
        } == {labels: number for labels, number in outcomes.items() if number}
        assert sum(v for (name, _), v in totals.items() if name == metric_total.REJECTED) == sum(
            row["state"] == "refused" for row in charged
        ) + len(only_counted)

    @invariant()
    def ledger_verify_finds_no_discrepancy(self):
        assert verify(self.ledgers[0].connection, self.now_ns, max_open_s=1e9).discrepancies == []

    @invariant()
    def every_breach_is_reported_once_or_is_in_an_open_window(self):
        reported = Counter()
        for event in events(self.ledgers[0]):
            if "rule" in event:
                reported[event["rule"]] += event["count"]
        for name, number in self.ledgers[1].connection.execute("SELECT rule, num_breaches FROM alert_window"):
            reported[name] += number
        assert +reported == +self.breaches

    @invariant()
    def finance_gets_each_costly_request_once(self):
        listed = [request["ledger_id"] for event in events(self.ledgers[0], "finance") for request in event["requests"]]
        waiting = self.ledgers[1].connection.execute("SELECT ledger_id FROM alert_breach WHERE rule = 'cost'")
        assert sorted(listed + [row_id for (row_id,) in waiting]) == sorted(self.costly)


class TestLedger(LedgerMachine.TestCase):  # type: ignore[misc,valid-type]  # made by Hypothesis
    settings = settings(stateful_step_count=40, max_examples=num_examples(25, in_explore_profile=300))

    def runTest(self):
        LedgerMachine.num_failures = LedgerMachine.num_failures_drawn = 0
        super().runTest()
        check_survivors(LedgerMachine.num_failures, LedgerMachine.num_failures_drawn, 0.2)
