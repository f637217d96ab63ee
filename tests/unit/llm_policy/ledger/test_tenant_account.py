"""The limits of a tenant: what is refused, with which text, and which events are sent."""

from datetime import datetime, timezone

import pytest

from llm_policy.errors import Code
from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.ledger.tenant import TenantLimits
from llm_policy.ledger.tenant_account import delete_old_seconds
from llmstack.ledger.verification import verify
from tests.ledgers import NEW_ROW, admit, events, open_ledger, rejection, rows, settlement
from tests.tenants import add_tenant

NS = 1_000_000_000
NOON_NS = int(datetime(2026, 11, 30, 12, tzinfo=timezone.utc).timestamp()) * NS
ROW = NEW_ROW._replace(is_authenticated=True, max_completion_tokens=500)  # $0.0002, 1,000 tokens
DAYS = "SELECT tenant, day, spent_nano_usd, reserved_nano_usd FROM tenant_day"


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.connection.close()


def limit(ledger, **limits):
    add_tenant(ledger.connection, "acme", TenantLimits(**limits))


def send(ledger, row=ROW, now_ns=NOON_NS):
    """The code and the text of one request."""
    ((recorded,),) = ledger.record([[row]], now_ns)
    return recorded.code, recorded.code_detail


def test_without_limits_everything_is_admitted_and_counted(ledger):
    limit(ledger)
    assert [send(ledger) for _ in range(3)] == [("", "")] * 3
    assert ledger.connection.execute("SELECT reserved_nano_usd FROM tenant_day").fetchone() == (600_000,)


def test_a_tenant_that_is_only_a_label_has_no_account(ledger):
    admit(ledger)
    assert ledger.connection.execute("SELECT count(*) FROM tenant_day").fetchone() == (0,)
    assert ledger.connection.execute("SELECT count(*) FROM reservation").fetchone() == (0,)


def test_a_request_that_a_budget_has_no_room_for_is_refused_with_all_figures(ledger):
    limit(ledger, max_nano_usd_per_day=500_000)
    row_id = admit(ledger, ROW, NOON_NS)
    ledger.settle([settlement(row_id, ROW)], NOON_NS)
    assert send(ledger) == ("", "")
    assert send(ledger) == ("", "")
    assert send(ledger) == (
        "tenant_budget_overrun",
        "the request may cost $0.000200000, but tenant acme has spent $0.000062000 and reserved $0.000400000 of "
        "$0.000500000 (max_usd_per_day); the day ends at 2026-12-01T00:00:00Z",
    )


def test_a_new_day_and_a_new_month_have_budgets_of_their_own(ledger):
    limit(ledger, max_nano_usd_per_day=200_000, max_nano_usd_per_month=300_000)
    assert send(ledger)[0] == ""
    code, text = send(ledger, now_ns=NOON_NS - 86_400 * NS)  # the clock was set back: another day, the same month
    assert code == "tenant_budget_overrun"
    assert text.endswith("(max_usd_per_month); the month ends at 2026-12-01T00:00:00Z")
    assert send(ledger, now_ns=NOON_NS + 86_400 * NS)[0] == ""


def test_a_refused_or_rejected_row_reserves_nothing(ledger):
    limit(ledger, max_nano_usd_per_day=200_000)
    row_id = admit(ledger, ROW, NOON_NS)
    assert send(ledger)[0] == "tenant_budget_overrun"
    ledger.reject([rejection(row_id, "schema_invalid", ROW)], NOON_NS)
    assert send(ledger)[0] == ""


def test_rows_of_dead_servers_release_what_they_did_not_use(tmp_path):
    first = open_ledger(tmp_path, "boot-1")
    limit(first, max_nano_usd_per_day=250_000)
    admit(first, ROW, NOON_NS)
    second = open_ledger(tmp_path, "boot-2")
    assert send(second)[0] == "tenant_budget_overrun"
    second.close_unanswered(NOON_NS)
    assert second.connection.execute(DAYS).fetchall() == [("acme", 20_787, 50_000, 0)]
    assert send(second)[0] == ""


def test_an_answer_that_comes_late_is_settled_only_if_the_budget_has_room(tmp_path):
    ledger = open_ledger(tmp_path)
    limit(ledger, max_nano_usd_per_day=250_000)
    late_id = admit(ledger, ROW, NOON_NS)
    ledger.close_unanswered(NOON_NS + 700 * NS)
    other_id = admit(ledger, ROW, NOON_NS)
    assert ledger.settle([settlement(late_id, ROW)], NOON_NS) == [False]
    ledger.settle([settlement(other_id, ROW)], NOON_NS)
    assert ledger.settle([settlement(late_id, ROW)], NOON_NS) == [True]
    assert ledger.connection.execute(DAYS).fetchall() == [("acme", 20_787, 124_000, 0)]


def test_too_many_requests_within_a_minute_are_told_when_to_try_again(ledger):
    limit(ledger, max_requests_per_minute=2)
    assert [send(ledger, now_ns=NOON_NS + second * NS)[0] for second in (0, 20)] == ["", ""]
    assert send(ledger, now_ns=NOON_NS + 30 * NS) == (
        "rate_limited",
        "tenant acme used 2 requests within a minute and the request needs 1, limit 2 (max_requests_per_minute); "
        "try again in 31 s",
    )
    assert send(ledger, now_ns=NOON_NS + 60 * NS)[0] == "rate_limited"
    assert send(ledger, now_ns=NOON_NS + 61 * NS)[0] == ""


def test_several_rows_are_one_request(ledger):
    limit(ledger, max_requests_per_minute=2)
    batch = [ROW, ROW._replace(row_number=1), ROW._replace(row_number=2)]
    assert [ledger.record([batch], NOON_NS)[0][0].code for _ in range(3)] == ["", "", "rate_limited"]


def test_tokens_of_the_minute_are_corrected_when_the_answer_is_shorter(ledger):
    limit(ledger, max_tokens_per_minute=1_600)
    row_id = admit(ledger, ROW, NOON_NS)
    assert send(ledger)[1].startswith("tenant acme used 1000 tokens within a minute and the request needs 1000")
    ledger.settle([settlement(row_id, ROW)], NOON_NS)  # 540 tokens
    assert send(ledger)[0] == ""


def test_a_request_that_never_fits_is_not_told_to_come_again(ledger):
    limit(ledger, max_tokens_per_minute=999)
    assert send(ledger) == (
        "tenant_forbidden",
        "the request may need 1000 tokens, limit 999 (max_tokens_per_minute of tenant acme)",
    )


def test_new_guides_of_a_minute_are_limited_and_zero_forbids_them(ledger):
    guided = ROW._replace(is_new_guide=True)
    limit(ledger, max_adhoc_guides_per_minute=1)
    assert [send(ledger, guided)[0], send(ledger, guided)[0], send(ledger)[0]] == ["", "rate_limited", ""]
    limit(ledger, max_adhoc_guides_per_minute=0)
    assert (send(ledger, guided)[0], send(ledger)[0]) == ("tenant_forbidden", "")


def test_requests_in_flight_are_limited(ledger):
    limit(ledger, max_concurrent_requests=1)
    row_id = admit(ledger, ROW)
    code, text = send(ledger, now_ns=None)
    assert (code, text.split(";")[0]) == (
        "rate_limited",
        "1 requests of tenant acme wait for their answers, limit 1 (max_concurrent_requests)",
    )
    ledger.settle([settlement(row_id, ROW)])
    assert send(ledger, now_ns=None)[0] == ""


def test_a_sender_whose_limits_are_reached_is_refused_before_its_request_is_read(ledger):
    limit(ledger, max_requests_per_minute=1)
    assert ledger.refusal("acme", True) is None
    admit(ledger, ROW)
    send(ledger, now_ns=None)
    assert ledger.refusal("acme", True).code is Code.RATE_LIMITED
    assert ledger.refusal("acme", False) is None  # somebody without its key
    limit(ledger)
    assert ledger.refusal("acme", True) is None


def test_each_share_of_a_budget_is_reported_once_for_a_window_and_a_limit(ledger):
    def spend():
        row_id = admit(ledger, ROW, NOON_NS)
        ledger.settle([settlement(row_id, ROW, actual_nano_usd=200_000)], NOON_NS)

    limit(ledger, max_nano_usd_per_day=1_000_000)
    for _ in range(5):
        spend()
    assert [send(ledger)[0] for _ in range(2)] == ["tenant_budget_overrun"] * 2
    sent = [(each["percent"], each["spent_usd"]) for each in events(ledger, "finance")]
    assert sent == [(80, 0.0008), (100, 0.001)]
    limit(ledger, max_nano_usd_per_day=1_200_000)
    spend()
    assert [each["percent"] for each in events(ledger, "finance")] == [80, 100, 100]
    assert events(ledger, "finance")[0] == {
        "tenant": "acme",
        "budget": "day",
        "percent": 80,
        "limit_usd": 0.001,
        "spent_usd": 0.0008,
        "reserved_usd": 0.0,
        "window_start": "2026-11-30T00:00:00Z",
        "window_end": "2026-12-01T00:00:00Z",
    }


def test_a_budget_that_has_room_for_no_request_is_reported_as_full(ledger):
    limit(ledger, max_nano_usd_per_month=300_000)
    admit(ledger, ROW, NOON_NS)
    send(ledger)
    assert [(each["budget"], each["percent"]) for each in events(ledger, "finance")] == [("month", 100)]


def test_refusals_are_counted_by_tenant_and_code_and_only_sampled_as_rows(ledger):
    limit(ledger, max_requests_per_minute=1)
    for _ in range(20):
        send(ledger)
    counted = ledger.connection.execute("SELECT tenant, code, num_rows FROM refusal_day").fetchall()
    assert counted == [("acme", "rate_limited", 19)]
    assert sum(row["state"] == "refused" for row in rows(ledger)) == SAMPLE_ROWS


def test_requests_of_one_batch_share_the_room_of_a_budget_and_of_a_rate(ledger):
    def send_batch():
        return [rows[0].code for rows in ledger.record([[ROW]] * 3, NOON_NS)]

    limit(ledger, max_nano_usd_per_day=500_000)
    assert send_batch() == ["", "", "tenant_budget_overrun"]
    limit(ledger, max_requests_per_minute=4)
    assert send_batch() == ["", "", "rate_limited"]


def test_answers_of_one_batch_are_spent_together(ledger):
    limit(ledger, max_nano_usd_per_day=1_000_000)
    row_ids = [admit(ledger, ROW, NOON_NS) for _ in range(4)]
    ledger.settle([settlement(row_id, ROW, actual_nano_usd=200_000) for row_id in row_ids], NOON_NS)
    assert ledger.connection.execute(DAYS).fetchall() == [("acme", 20_787, 800_000, 0)]
    assert [each["percent"] for each in events(ledger, "finance")] == [80]


def test_days_of_a_month_share_its_budget_in_whatever_order_they_come(ledger):
    limit(ledger, max_nano_usd_per_month=1_000_000)
    days = [NOON_NS - number * 86_400 * NS for number in (1, 0, 1, 0, 0)]
    row_ids = [admit(ledger, ROW, day_ns) for day_ns in days]
    assert [send(ledger, now_ns=day_ns)[0] for day_ns in days[:2]] == ["tenant_budget_overrun"] * 2
    spent = [ledger.settle([settlement(row_id, ROW, actual_nano_usd=160_000)], NOON_NS) for row_id in row_ids]
    assert spent == [[True]] * 5
    sent = [(each["percent"], each["spent_usd"]) for each in events(ledger, "finance")]
    assert sent == [(100, 0.0), (80, 0.0008)]


@pytest.mark.parametrize(
    "change", ["UPDATE tenant SET limits = ?", "INSERT OR REPLACE INTO tenant VALUES ('acme', 0, ?)"]
)
def test_a_limit_that_is_lowered_holds_from_then_on(ledger, change):
    limit(ledger, max_nano_usd_per_day=10_000_000)
    row_id = admit(ledger, ROW, NOON_NS)
    ledger.connection.execute(change, (TenantLimits(max_nano_usd_per_day=250_000).as_text(),))
    assert ledger.settle([settlement(row_id, ROW, actual_nano_usd=200_000)], NOON_NS) == [True]
    assert [each["percent"] for each in events(ledger, "finance")] == [80]
    assert send(ledger)[0] == "tenant_budget_overrun"


def test_late_answers_of_one_batch_share_the_room_of_a_budget(ledger):
    limit(ledger, max_nano_usd_per_day=400_000)
    row_ids = [admit(ledger, ROW, NOON_NS) for _ in range(2)]
    ledger.close_unanswered(NOON_NS + 700 * NS)  # they cost 50,000 each
    late = [settlement(row_id, ROW, actual_nano_usd=210_000) for row_id in row_ids]
    assert ledger.settle(late, NOON_NS) == [True, False]
    assert ledger.connection.execute(DAYS).fetchall() == [("acme", 20_787, 260_000, 0)]


def test_what_is_spent_late_counts_in_budgets_of_other_days(ledger):
    limit(ledger, max_nano_usd_per_month=400_000)
    late_id = admit(ledger, ROW, NOON_NS - 86_400 * NS)
    ledger.close_unanswered(NOON_NS)  # it costs 50,000
    cheap = ROW._replace(projected_nano_usd=100_000)
    admit(ledger, cheap, NOON_NS)
    assert ledger.settle([settlement(late_id, ROW, actual_nano_usd=260_000)], NOON_NS) == [True]
    assert send(ledger, cheap)[0] == "tenant_budget_overrun"


def test_seconds_that_no_rate_counts_are_deleted(ledger):
    limit(ledger, max_requests_per_minute=1)
    admit(ledger, ROW, NOON_NS)
    delete_old_seconds(ledger.connection, NOON_NS + 60 * NS)
    assert send(ledger)[0] == "rate_limited"
    delete_old_seconds(ledger.connection, NOON_NS + 121 * NS)
    assert ledger.connection.execute("SELECT count(*) FROM tenant_second").fetchone() == (0,)


def test_reservations_of_an_earlier_version_move_into_their_rows(tmp_path):
    ledger = open_ledger(tmp_path)
    limit(ledger, max_nano_usd_per_day=300_000)
    label = NEW_ROW._replace(tenant="globex")
    settled, open_row = (admit(ledger, row, NOON_NS) for row in (label, ROW))
    ledger.settle([settlement(settled, label)], NOON_NS)
    execute = ledger.connection.execute
    before = execute("SELECT * FROM reservation").fetchall()
    execute("CREATE TABLE earlier (ledger_id INTEGER PRIMARY KEY, tenant, admitted_ns, num_tokens, nano_usd)")
    execute("INSERT INTO earlier SELECT * FROM reservation")
    execute("DROP VIEW reservation")
    execute("ALTER TABLE earlier RENAME TO reservation")
    execute("ALTER TABLE request DROP COLUMN reserved_tokens")
    for trigger in ("tenant_added", "tenant_limits_changed"):
        execute(f"DROP TRIGGER {trigger}")
    execute("ALTER TABLE tenant_day DROP COLUMN safe_nano_usd")
    execute("PRAGMA user_version = 4")
    assert verify(ledger.connection, NOON_NS, 600).discrepancies == []
    ledger.connection.close()
    ledger = open_ledger(tmp_path)
    assert ledger.connection.execute("SELECT * FROM reservation").fetchall() == before
    assert before == [(open_row, "acme", NOON_NS, 1_000, 200_000)]
    assert send(ledger)[0] == "tenant_budget_overrun"
    ledger.settle([settlement(open_row, ROW)], NOON_NS)
    assert send(ledger)[0] == ""
