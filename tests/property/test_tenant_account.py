"""Tenants' accounts under any order of operations are what a plain model of the rules says."""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llm_policy.errors import Code
from llm_policy.ledger.budget_window import day_of, windows_of
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.tenant import TenantLimits
from llm_policy.ledger.tenant_account import WINDOW_S, delete_old_seconds
from llmstack.ledger.account_checks import check_accounts
from llmstack.ledger.verification import verify
from tests.hypothesis_profiles import num_examples
from tests.ledgers import open_ledger, rejection, settlement
from tests.tenants import add_tenant

TENANTS = ("acme", "globex")
PROMPT_NANO_USD, TOKEN_NANO_USD = 10, 300  # of the test manifest: 0.3 dollars for a million completion tokens
NS = 1_000_000_000
limits = st.builds(
    TenantLimits,
    max_nano_usd_per_day=st.none() | st.integers(0, 100_000),
    max_nano_usd_per_month=st.none() | st.integers(0, 200_000),
    max_tokens_per_minute=st.none() | st.integers(0, 400),
    max_requests_per_minute=st.none() | st.integers(1, 20),
    max_adhoc_guides_per_minute=st.none() | st.integers(0, 10),
    max_concurrent_requests=st.none(),
    tasks=st.none(),
    schemas=st.none(),
)
needs = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30), st.booleans()), min_size=1, max_size=3)
batches = st.lists(st.tuples(st.sampled_from(TENANTS), needs), min_size=1, max_size=4)


@dataclass
class ModelRow:
    """One admitted row: what it reserved, and what it used once it is closed."""

    record: RowRecord
    admitted_ns: int
    nano_usd: int
    num_tokens: int
    is_open: bool = True
    is_final: bool = False  # no answer can change it


def new_row(tenant, number, need):
    num_prompt, num_completion, is_new_guide = need
    prompt = num_prompt * PROMPT_NANO_USD
    return RowRecord(
        tenant=tenant,
        is_authenticated=True,
        row_number=number,
        num_prompt_tokens=num_prompt,
        max_completion_tokens=num_completion,
        prompt_nano_usd=prompt,
        projected_nano_usd=prompt + num_completion * TOKEN_NANO_USD,
        is_new_guide=is_new_guide,
    )


class AccountMachine(RuleBasedStateMachine):
    """Two processes write, time passes, servers restart; the model keeps every row and computes everything anew."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.now_ns = time.time_ns() // NS * NS
        self.num_boots = 1
        self.rows = []
        self.limits = dict.fromkeys(TENANTS, TenantLimits())
        self.spent = Counter()  # by tenant and day, as the transactions so far saved it
        self.alerts = set()
        self.open()
        for tenant in TENANTS:
            add_tenant(self.ledgers[0].connection, tenant)

    def open(self):
        path, boot_id = Path(self.directory.name), f"boot-{self.num_boots}"
        self.ledgers = [open_ledger(path, boot_id, 1_000, 10**9) for _ in range(2)]

    def close(self):
        for ledger in self.ledgers:
            ledger.connection.close()

    def teardown(self):
        assert verify(self.ledgers[0].connection, self.now_ns, 10**9).discrepancies == []
        self.close()
        self.directory.cleanup()

    def committed(self, tenant, window):
        return sum(
            row.nano_usd
            for row in self.rows
            if row.record.tenant == tenant and window.first <= day_of(row.admitted_ns) < window.end
        )

    def expected_code(self, tenant, rows):
        """The code that the rules give a request, computed from all rows."""
        of_tenant = self.limits[tenant]
        recent = [
            row
            for row in self.rows
            if row.record.tenant == tenant and abs(row.admitted_ns // NS - self.now_ns // NS) <= WINDOW_S
        ]
        rates = (
            (of_tenant.max_requests_per_minute, sum(row.record.row_number == 0 for row in recent), 1),
            (
                of_tenant.max_tokens_per_minute,
                sum(row.num_tokens for row in recent),
                sum(row.num_prompt_tokens + row.max_completion_tokens for row in rows),
            ),
            (
                of_tenant.max_adhoc_guides_per_minute,
                sum(row.record.is_new_guide for row in recent),
                sum(row.is_new_guide for row in rows),
            ),
        )
        for limit, used, number in rates:
            if limit is not None and number and number > limit:
                return Code.TENANT_FORBIDDEN
            if limit is not None and number and used + number > limit:
                return Code.RATE_LIMITED
        needed = sum(row.projected_nano_usd for row in rows)
        budgets = (of_tenant.max_nano_usd_per_day, of_tenant.max_nano_usd_per_month)
        for window, limit in zip(windows_of(day_of(self.now_ns)), budgets, strict=True):
            if limit is not None and self.committed(tenant, window) + needed > limit:
                self.alerts.add((tenant, window.name, window.first, 100, limit))
                return Code.TENANT_BUDGET_OVERRUN
        return None

    @initialize(acme=limits, globex=limits, batch=batches)
    def begin(self, acme, globex, batch):
        """Hypothesis leaves rules out of an example: without rows and limits it would try little."""
        self.limit("acme", acme)
        self.limit("globex", globex)
        self.record(0, batch)

    @rule(process=st.integers(0, 1), batch=batches)
    def record(self, process, batch):
        requests = [[new_row(tenant, number, need) for number, need in enumerate(rows)] for tenant, rows in batch]
        recorded = self.ledgers[process].record(requests, self.now_ns)
        for rows, answered in zip(requests, recorded, strict=True):
            code = self.expected_code(rows[0].tenant, rows)
            assert {row.code for row in answered} == {code.value if code else ""}
            if code is None:
                for row in answered:
                    tokens = row.num_prompt_tokens + row.max_completion_tokens
                    self.rows.append(ModelRow(row, self.now_ns, row.projected_nano_usd, tokens))

    def choose(self, data, condition, max_size=1):
        candidates = [number for number, row in enumerate(self.rows) if condition(row)]
        if not candidates:
            return []
        chosen = data.draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=max_size, unique=True))
        return [self.rows[number] for number in chosen]

    @precondition(lambda self: any(not row.is_final for row in self.rows))
    @rule(data=st.data(), process=st.integers(0, 1), is_cut=st.booleans())
    def settle(self, data, process, is_cut):
        """One transaction closes rows on time and late, in any order."""
        chosen = self.choose(data, lambda row: not row.is_final, max_size=4)
        answers, found, closings = [], [], []
        for row in chosen:
            num_tokens = data.draw(st.integers(0, row.record.max_completion_tokens))
            cost = row.record.prompt_nano_usd + num_tokens * TOKEN_NANO_USD
            changes = {"num_completion_tokens": num_tokens, "actual_nano_usd": cost}
            code = Code.CANCELLED.value if is_cut and row.is_open else ""
            answers.append(settlement(row.record.ledger_id, row.record, code=code, **changes))
            if row.is_open:
                found.append(True)
                closings.append((row, cost, False))
                self.used(row, num_tokens, cost)
                row.is_final = True
            else:
                found.append(self.has_room(row, cost - row.nano_usd))
                closings.append((row, cost - row.nano_usd if found[-1] else 0, True))
                if found[-1]:
                    row.nano_usd, row.is_final = cost, True
        assert self.ledgers[process].settle(answers, self.now_ns) == found
        self.save(closings)

    def has_room(self, row, nano_usd):
        tenant = row.record.tenant
        budgets = (self.limits[tenant].max_nano_usd_per_day, self.limits[tenant].max_nano_usd_per_month)
        return all(
            limit is None or self.committed(tenant, window) + nano_usd <= limit
            for window, limit in zip(windows_of(day_of(row.admitted_ns)), budgets, strict=True)
        )

    def save(self, closings):
        """Rows are saved by tenant and day at the end of a transaction, and before a late one of their tenant."""
        unsaved = {tenant: {} for tenant in TENANTS}
        for row, nano_usd, is_late in closings:
            tenant, day = row.record.tenant, day_of(row.admitted_ns)
            if is_late:
                self.save_days(tenant, unsaved[tenant])
                unsaved[tenant] = {}
            unsaved[tenant][day] = unsaved[tenant].get(day, 0) + nano_usd
        for tenant, days in unsaved.items():
            self.save_days(tenant, days)

    def save_days(self, tenant, days):
        budgets = (self.limits[tenant].max_nano_usd_per_day, self.limits[tenant].max_nano_usd_per_month)
        for day, nano_usd in days.items():
            self.spent[tenant, day] += nano_usd
            for window, limit in zip(windows_of(day), budgets, strict=True):
                spent = sum(self.spent[tenant, each] for each in range(window.first, window.end))
                if nano_usd and limit is not None and 100 * spent >= 80 * limit:
                    percent = 100 if spent >= limit else 80
                    self.alerts.add((tenant, window.name, window.first, percent, limit))

    @precondition(lambda self: any(row.is_open for row in self.rows))
    @rule(data=st.data(), process=st.integers(0, 1))
    def reject(self, data, process):
        for row in self.choose(data, lambda row: row.is_open):
            self.ledgers[process].reject([rejection(row.record.ledger_id, "schema_invalid", row.record)], self.now_ns)
            self.used(row, -row.record.num_prompt_tokens, 0)
            row.is_final = True

    @rule(
        seconds=st.sampled_from([0.3, 1, 20, 59, 60, 61, 90_000, -86_400, 40 * 86_400]),
        forgets_old_seconds=st.booleans(),
    )
    def wait(self, seconds, forgets_old_seconds):
        """The clock may be set back."""
        self.now_ns += int(seconds * NS)
        if forgets_old_seconds:
            delete_old_seconds(self.ledgers[0].connection, self.now_ns)

    @rule(restarts=st.booleans())
    def sweep(self, restarts):
        if not restarts:
            self.ledgers[0].close_unanswered(self.now_ns, max_open_s=600)
            self.swept(lambda row: row.admitted_ns < self.now_ns - 600 * NS)
            return
        self.close()
        self.num_boots += 1
        self.open()
        self.ledgers[0].close_unanswered(self.now_ns)
        self.swept(lambda row: True)

    @rule(tenant=st.sampled_from(TENANTS), new=limits)
    def limit(self, tenant, new):
        self.limits[tenant] = new
        self.ledgers[0].connection.execute("UPDATE tenant SET limits = ? WHERE name = ?", (new.as_text(), tenant))

    def swept(self, condition):
        swept = [row for row in self.rows if row.is_open and condition(row)]
        for row in swept:
            self.used(row, 0, row.record.prompt_nano_usd)
        self.save([(row, row.nano_usd, False) for row in swept])

    @staticmethod
    def used(row, num_completion_tokens, nano_usd):
        row.is_open = False
        row.nano_usd, row.num_tokens = nano_usd, row.record.num_prompt_tokens + num_completion_tokens

    @invariant()
    def accounts_equal_the_model(self):
        execute = self.ledgers[0].connection.execute
        for tenant in TENANTS:
            of_tenant = [row for row in self.rows if row.record.tenant == tenant]
            spent, reserved = execute(
                "SELECT coalesce(sum(spent_nano_usd), 0), coalesce(sum(reserved_nano_usd), 0) FROM tenant_day "
                "WHERE tenant = ?",
                (tenant,),
            ).fetchone()
            assert spent == sum(row.nano_usd for row in of_tenant if not row.is_open)
            assert reserved == sum(row.nano_usd for row in of_tenant if row.is_open)
            (num_open,) = execute("SELECT count(*) FROM reservation WHERE tenant = ?", (tenant,)).fetchone()
            assert num_open == sum(row.is_open for row in of_tenant)
            (in_usage,) = execute(
                "SELECT coalesce(sum(nano_usd), 0) FROM usage_day WHERE tenant = ?", (tenant,)
            ).fetchone()
            assert in_usage == spent
        sent = execute("SELECT tenant, budget, first_day, percent, limit_nano_usd FROM budget_alert").fetchall()
        assert set(sent) == self.alerts
        assert list(check_accounts(self.ledgers[0].connection)) == []


TestAccounts = AccountMachine.TestCase
TestAccounts.settings = settings(max_examples=num_examples(100), stateful_step_count=40, deadline=None)
