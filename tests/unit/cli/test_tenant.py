"""`llmstack tenant`."""

import json
import re
import time

import pytest
from typer.testing import CliRunner

from llm_policy.api_key import digest_of, is_key
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.tenant import TenantLimits, find_by_key, read_limits
from llmstack.cli.tenant import app
from tests.ledgers import NEW_ROW, admit, open_ledger, settlement
from tests.tenants import add_tenant

LONG_NAME = "a-tenant.with_a-name-that-is-as-long-as-a-name-may-be-0123456789"
HUGE_NANO_USD = 987_654_321_123_456_789


def run(state_dir, *arguments, exit_code=0, columns=80):
    done = CliRunner().invoke(app, [*arguments, "--state-dir", str(state_dir)], env={"COLUMNS": str(columns)})
    assert done.exit_code == exit_code, done.output
    return done


def run_json(state_dir, *arguments):
    return json.loads(run(state_dir, *arguments, "--json").stdout)


def refused(state_dir, *arguments):
    """Standard error of a command that could not work."""
    done = run(state_dir, *arguments, exit_code=2)
    assert re.search(r"^error: .+\nnext:  .+", done.stderr)
    assert done.stdout == ""
    return done.stderr


def keys_in(text):
    return [word for word in re.split(r"[\s\"]+", text) if is_key(word)]


@pytest.fixture
def connection(tmp_path):
    connection = open_database(tmp_path / FILE_NAME)
    yield connection
    connection.close()


def test_create_makes_the_ledger_and_shows_the_key_once(tmp_path):
    state_dir = tmp_path / "new" / "state"
    shown = run(state_dir, "create", "acme", "--max-usd-per-day", "12.5", "--task", "judge", "--task", "judge").stdout
    (key,) = keys_in(shown)
    assert "created tenant acme, max_usd_per_day 12.50 US dollars, tasks judge" in shown
    assert "not shown again" in shown
    assert "Authorization: Bearer" in shown
    connection = open_database(state_dir / FILE_NAME)
    limits = TenantLimits(max_nano_usd_per_day=12_500_000_000, tasks=("judge",))
    assert find_by_key(connection, digest_of(key), time.time_ns()) == ("acme", limits)
    connection.close()
    later = [run(state_dir, *command).stdout for command in (("list",), ("show", "acme"), ("show", "acme", "--json"))]
    assert [text for text in later if "lsk_" in text] == []


def test_create_sets_every_limit(tmp_path, connection):
    created = run_json(
        tmp_path, "create", "acme", "--max-usd-per-day", "0.000000001", "--max-usd-per-month", "1",
        "--max-tokens-per-minute", "2", "--max-requests-per-minute", "3", "--max-concurrent-requests", "4",
        "--max-adhoc-guides-per-minute", "0", "--task", "judge", "--task", "generate_json", "--schema", "order",
    )  # fmt: skip
    assert read_limits(connection, "acme") == (1, 10**9, 2, 3, 4, 0, ("judge", "generate_json"), ("order",))
    assert created["limits"]["max_usd_per_day"] == "0.000000001"
    assert created["limits"]["max_adhoc_guides_per_minute"] == 0
    assert find_by_key(connection, digest_of(created["new_key"]["key"]), time.time_ns()).name == "acme"
    assert created["label_use"] is None


def test_create_says_that_the_name_was_a_label(tmp_path):
    ledger = open_ledger(tmp_path)
    for _ in range(2):
        ledger.settle([settlement(admit(ledger))])
    ledger.connection.close()
    assert "note: 2 rows from 2" in run(tmp_path, "create", "acme").stdout
    label = NEW_ROW.tenant
    assert run_json(tmp_path, "show", label)["spent_today_nano_usd"] == 0


def test_a_task_that_not_every_release_has_is_noted(tmp_path):
    assert "has summarise:" in run(tmp_path, "create", "globex", "--task", "judge", "--task", "summarise").stdout
    assert "has judges:" in run(tmp_path, "limit", "globex", "--task", "judges").stdout
    assert "note" not in run(tmp_path, "limit", "globex", "--task", "judge").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "acme"), "exists already"),
        (("create", "a b"), "not allowed as a name"),
        (("create", "llmstack-canary"), "the server's own requests"),
        (("create", "new", "--max-usd-per-day", "0.0000000001"), "--max-usd-per-day: 0.0000000001 is finer than"),
        (("create", "new", "--max-usd-per-month", "ten"), "--max-usd-per-month: 'ten' is no amount"),
        (("create", "new", "--task", "two words"), "can't be the name of a task"),
        (("show", "globex"), "there is no tenant 'globex'"),
        (("show", "%"), "there is no tenant '%'"),
        (("limit", "globex", "--task", "judge"), "there is no tenant 'globex'"),
        (("limit", "acme"), "no limit is given"),
        (("limit", "acme", "--no-limit", "max-usd"), "--no-limit names no limit"),
        (("limit", "acme", "--max-usd-per-day", "1", "--no-limit", "max-usd-per-day"), "a new limit too"),
        (("rotate", "globex"), "there is no tenant 'globex'"),
        (("rotate", "acme", "--grace", "24"), "--grace is no time"),
        (("rotate", "acme", "--grace", "366d"), "--grace is no time"),
        (("rotate", "acme", "--grace", "-1h"), "--grace is no time"),
        (("revoke", "globex"), "there is no tenant 'globex'"),
        (("revoke", "acme", "--key", "00000000"), "has no key '00000000'"),
    ],
)
def test_a_change_that_is_not_possible_fails_with_the_next_step(tmp_path, connection, arguments, message):
    key = add_tenant(connection, "acme")
    assert message in refused(tmp_path, *arguments)
    assert connection.execute("SELECT name FROM tenant").fetchall() == [("acme",)]
    assert connection.execute("SELECT digest, ends_ns FROM tenant_key").fetchall() == [(digest_of(key), None)]


def test_negative_counts_are_refused(tmp_path, connection):
    run(tmp_path, "create", "acme", "--max-requests-per-minute", "-1", exit_code=2)
    assert connection.execute("SELECT count(*) FROM tenant").fetchone() == (0,)


@pytest.mark.parametrize("command", [("list",), ("show", "a"), ("limit", "a", "--task", "judge"), ("rotate", "a")])
def test_a_directory_without_a_ledger_is_reported_and_not_changed(tmp_path, command):
    assert "has no ledger.db" in refused(tmp_path, *command)
    assert list(tmp_path.iterdir()) == []


def test_a_state_directory_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(tmp_path / "file" / "state", "create", "acme")


def test_limit_says_what_changed_from_what_to_what(tmp_path, connection):
    limits = TenantLimits(max_nano_usd_per_day=10**10, max_requests_per_minute=1_200, max_tokens_per_minute=5)
    add_tenant(connection, "acme", limits)
    shown = run(
        tmp_path, "limit", "acme", "--max-usd-per-day", "12.345678901", "--no-limit", "max-requests-per-minute",
        "--no-limit", "max_usd_per_month", "--task", "judge", "--max-tokens-per-minute", "5",
    ).stdout  # fmt: skip
    assert shown.splitlines() == [
        "max_usd_per_day: 10.00 US dollars → 12.345678901 US dollars",
        "max_requests_per_minute: 1,200 → no limit",
        "tasks: all → judge",
    ]
    assert read_limits(connection, "acme") == TenantLimits(
        max_nano_usd_per_day=12_345_678_901, max_tokens_per_minute=5, tasks=("judge",)
    )
    assert "no limit has changed" in run(tmp_path, "limit", "acme", "--task", "judge").stdout


def test_limit_as_json_has_all_limits_and_the_changes(tmp_path, connection):
    add_tenant(connection, "acme", TenantLimits(max_concurrent_requests=2))
    changed = run_json(tmp_path, "limit", "acme", "--max-usd-per-month", "1", "--no-limit", "max-concurrent-requests")
    assert changed["limits"]["max_nano_usd_per_month"] == 10**9
    assert changed["changes"] == [
        {"limit": "max_usd_per_month", "before": None, "after": "1.000000000"},
        {"limit": "max_concurrent_requests", "before": 2, "after": None},
    ]


def test_rotate_keeps_the_last_key_for_a_day_and_says_until_when(tmp_path, connection):
    first = add_tenant(connection, "acme")
    shown = run(tmp_path, "rotate", "acme").stdout
    (second,) = keys_in(shown)
    assert re.search(rf"key {digest_of(first).hex()[:8]}: valid → valid until \d{{4}}-", shown)
    for hours, valid in ((23, ["acme", "acme"]), (25, [None, "acme"])):
        at_ns = time.time_ns() + hours * 3_600 * 10**9
        found = [find_by_key(connection, digest_of(key), at_ns) for key in (first, second)]
        assert [tenant and tenant.name for tenant in found] == valid


def test_rotate_while_two_keys_are_valid_says_which_one_ended(tmp_path, connection):
    first = add_tenant(connection, "acme")
    run(tmp_path, "rotate", "acme", "--grace", "7d")
    rotated = run(tmp_path, "rotate", "acme", "--grace", "30m").stdout
    assert f"key {digest_of(first).hex()[:8]}: valid → ended" in rotated
    assert find_by_key(connection, digest_of(first), time.time_ns()) is None
    as_json = run_json(tmp_path, "rotate", "acme", "--grace", "0")
    assert (as_json["rotated"], len(as_json["ended"])) == (None, 2)
    states = [key["state"] for key in run_json(tmp_path, "show", "acme")["keys"]]
    assert states == ["ended", "ended", "ended", "valid"]


def test_revoke_ends_one_key_or_all(tmp_path, connection):
    first = add_tenant(connection, "acme")
    second = run_json(tmp_path, "rotate", "acme")["new_key"]
    one = run(tmp_path, "revoke", "acme", "--key", second["id"]).stdout
    assert one == f"key {second['id']}: valid → ended\n"
    assert find_by_key(connection, digest_of(second["key"]), time.time_ns()) is None
    assert find_by_key(connection, digest_of(first), time.time_ns()).name == "acme"
    assert "has no valid key" in run(tmp_path, "revoke", "acme").stdout
    assert find_by_key(connection, digest_of(first), time.time_ns()) is None
    assert "no key has changed: none was valid" in run(tmp_path, "revoke", "acme").stdout
    assert f"{second['id']} ended before" in run(tmp_path, "revoke", "acme", "--key", second["id"]).stdout
    assert run_json(tmp_path, "revoke", "acme") == {"name": "acme", "revoked": [], "num_valid_keys": 0}


def test_an_error_does_not_repeat_a_key_that_was_given_by_mistake(tmp_path, connection):
    key = add_tenant(connection, "acme")
    for arguments in (
        ("create", key),
        ("show", key),
        ("revoke", "acme", "--key", key),
        ("limit", "acme", "--max-usd-per-day", key),
        ("limit", "acme", "--no-limit", key),
        ("limit", "acme", "--no-limit", key, "--schema", key),
        ("limit", "acme", "--schema", key),
        ("rotate", "acme", "--grace", key),
    ):
        assert "lsk_" not in refused(tmp_path, *arguments)


def test_list_without_tenants_says_so(tmp_path, connection):
    assert run(tmp_path, "list").stdout == "no tenants\n"
    assert run_json(tmp_path, "list") == []


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_show_every_digit_and_the_whole_name(tmp_path, connection, columns):
    add_tenant(connection, LONG_NAME, TenantLimits(HUGE_NANO_USD, HUGE_NANO_USD, 10**12, 10**12, 10**12, 10**12))
    day = time.time_ns() // (86_400 * 10**9)
    values = (LONG_NAME, day, HUGE_NANO_USD, HUGE_NANO_USD)
    connection.execute("INSERT INTO tenant_day VALUES (?, ?, ?, ?, NULL)", values)
    listed, shown = (run(tmp_path, *command, columns=columns).stdout for command in (("list",), ("show", LONG_NAME)))
    assert "…" not in listed + shown
    assert listed.count("987654321.123456789") == 4
    assert shown.count("987654321.123456789") == 6
    assert shown.count("1,000,000,000,000") == 4
    first_column = "".join(line.split(" 987")[0].strip() for line in listed.splitlines()[1:])
    assert first_column == LONG_NAME


def test_amounts_of_an_ordinary_tenant_fit_into_80_columns_right_aligned(tmp_path, connection):
    for name, usd in (("acme", 100), ("globex", 2_000)):
        add_tenant(connection, name, TenantLimits(max_nano_usd_per_day=usd * 10**9, max_nano_usd_per_month=10**13))
    listed = run(tmp_path, "list").stdout.splitlines()
    assert {len(line) for line in listed} <= set(range(81))
    assert listed[1].index("100.00") + len("100.00") == listed[2].index("2000.00") + len("2000.00")


def test_show_has_uses_refusals_and_keys(tmp_path, connection):
    key = add_tenant(connection, "acme", TenantLimits(max_concurrent_requests=3, schemas=("order",)))
    ledger = open_ledger(tmp_path)
    row = NEW_ROW._replace(is_authenticated=True)
    admit(ledger, row)
    ledger.record([[row._replace(code="unknown_schema")]])
    ledger.connection.close()
    shown = run(tmp_path, "show", "acme").stdout
    assert re.search(r"max_usd_per_day +- +0\.000000000 +0\.000200000", shown)
    assert re.search(r"max_concurrent_requests +3 +1", shown)
    assert re.search(r"unknown_schema +1", shown)
    assert re.search(rf"{digest_of(key).hex()[:8]} .* valid", shown)
    assert "tasks: all\nschemas: order\n" in shown
    assert run_json(tmp_path, "show", "acme") == run_json(tmp_path, "list")[0]
