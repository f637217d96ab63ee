"""Changes of tenants and keys, on a real ledger: seen by the look-up that the stubs use."""

import multiprocessing
import time
from typing import Any

import pytest

from llm_policy.api_key import create_key, digest_of
from llm_policy.ledger.budget_window import NS_PER_DAY, date_of
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.tenant import TenantLimits, find_by_key, read_limits
from llm_policy.ledger.tenant_account import Need, TenantAccount
from llmstack.tenants.tenant_admin import (
    FIELDS,
    MAX_USD,
    TenantError,
    change_limits,
    create_tenant,
    parse_usd,
    revoke_keys,
    rotate_key,
)
from llmstack.tenants.tenant_status import read_statuses
from tests.ledgers import NEW_ROW, admit, open_ledger, settlement

NOW_NS = 20_000 * NS_PER_DAY + NS_PER_DAY // 2  # 2024-10-04
HOUR_NS = NS_PER_DAY // 24
NO_LIMITS = TenantLimits()
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def connection(tmp_path):
    connection = open_database(tmp_path / FILE_NAME)
    yield connection
    connection.close()


def create(connection, name="acme", limits=NO_LIMITS, now_ns=NOW_NS):
    return create_tenant(connection, name, limits, now_ns).new_key.key


def names_of_valid(connection, *keys, now_ns):
    """For each key the tenant that it opens, or None."""
    found = [find_by_key(connection, digest_of(key), now_ns) for key in keys]
    return [tenant.name if tenant else None for tenant in found]


def key_states(connection, now_ns, name="acme"):
    (status,) = read_statuses(connection, now_ns, name)
    return [key.state for key in status.keys]


def test_the_key_of_a_new_tenant_opens_it_with_its_limits(connection):
    limits = TenantLimits(max_nano_usd_per_day=5, tasks=("judge",), schemas=("order", "verdict"))
    key = create(connection, limits=limits)
    found = find_by_key(connection, digest_of(key), NOW_NS)
    assert found == ("acme", limits)


def test_the_plain_key_is_nowhere_in_the_files_and_in_no_repr(connection, tmp_path):
    creation = create_tenant(connection, "acme", NO_LIMITS, NOW_NS)
    rotation = rotate_key(connection, "acme", HOUR_NS, NOW_NS)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for result in (creation, rotation):
        assert result.new_key.key.encode() not in stored
        assert result.new_key.key not in repr(result)


def test_an_existing_name_is_refused_and_its_tenant_stays(connection):
    key = create(connection, limits=TenantLimits(tasks=("judge",)))
    with pytest.raises(TenantError, match="tenant acme exists already"):
        create(connection)
    assert read_limits(connection, "acme") == TenantLimits(tasks=("judge",))
    assert names_of_valid(connection, key, now_ns=NOW_NS) == ["acme"]
    assert key_states(connection, NOW_NS) == ["valid"]


@pytest.mark.parametrize(
    "name",
    ["", "-acme", ".acme", "a b", "acme\n", "ac/me", "ácme", "\udcff", "a" * 65, "x'; DROP TABLE tenant; --",
     "llmstack-canary", "LLMstack-Canary"],
)  # fmt: skip
def test_a_name_outside_of_the_rules_is_refused(connection, name):
    with pytest.raises(TenantError) as caught:
        create(connection, name)
    assert caught.value.next_step
    assert read_statuses(connection, NOW_NS) == []


@pytest.mark.parametrize("name", ["a", "9", "Acme_Corp.2-x", "a" * 64, "lsk_", "lsk_short"])
def test_a_name_within_the_rules_is_allowed(connection, name):
    assert names_of_valid(connection, create(connection, name), now_ns=NOW_NS) == [name]


def test_a_key_as_a_name_or_id_is_refused_and_not_repeated(connection):
    key = create(connection)
    attempts = (
        lambda: create(connection, key),
        lambda: create(connection, f"team-{create_key()[:30]}"),
        lambda: change_limits(connection, key, {"tasks": None}),
        lambda: change_limits(connection, "acme", {"tasks": (key,)}),
        lambda: change_limits(connection, "acme", {"schemas": (key,)}),
        lambda: revoke_keys(connection, "acme", key, NOW_NS),
        lambda: revoke_keys(connection, key, None, NOW_NS),
        lambda: rotate_key(connection, key, 0, NOW_NS),
    )
    for attempt in attempts:
        with pytest.raises(TenantError) as caught:
            attempt()
        assert "lsk_" not in f"{caught.value} {caught.value.next_step}"
    assert key_states(connection, NOW_NS) == ["valid"]


def test_the_rows_that_used_the_name_as_a_label_are_reported(tmp_path):
    ledger = open_ledger(tmp_path)
    for now_ns in (NOW_NS - NS_PER_DAY, NOW_NS):
        ledger.settle([settlement(admit(ledger, NEW_ROW, now_ns))], now_ns + 1)
    creation = create_tenant(ledger.connection, "acme", NO_LIMITS, NOW_NS)
    assert creation.label_use == (2, date_of(19_999), date_of(20_000))
    assert create_tenant(ledger.connection, "globex", NO_LIMITS, NOW_NS).label_use is None
    ledger.connection.close()


def test_a_change_touches_only_the_given_limits_and_tells_them_before_and_after(connection):
    create(connection, limits=TenantLimits(max_nano_usd_per_day=5, max_requests_per_minute=9, tasks=("judge",)))
    changes = {"max_nano_usd_per_day": 7, "tasks": None, "max_requests_per_minute": 9, "schemas": ("order",)}
    limits, changed = change_limits(connection, "acme", changes)
    assert limits == TenantLimits(max_nano_usd_per_day=7, max_requests_per_minute=9, schemas=("order",))
    assert read_limits(connection, "acme") == limits
    assert changed == [("max_usd_per_day", 5, 7), ("tasks", ("judge",), None), ("schemas", None, ("order",))]
    assert change_limits(connection, "acme", changes) == (limits, [])


def test_a_changed_limit_holds_for_the_next_request_of_another_process(connection, tmp_path):
    create(connection)
    ledger = open_ledger(tmp_path)
    row = NEW_ROW._replace(is_authenticated=True)
    admit(ledger, row, NOW_NS)
    change_limits(connection, "acme", {"max_requests_per_minute": 1})
    ((refused,),) = ledger.record([[row]], NOW_NS)
    assert refused.code == "rate_limited"
    change_limits(connection, "acme", {"max_requests_per_minute": None})
    admit(ledger, row, NOW_NS)
    ledger.connection.close()


def test_the_highest_limits_fit_into_the_ledger(connection):
    highest: dict[str, Any] = {name: parse_usd(str(MAX_USD)) for name in FIELDS.values() if "_nano_usd_" in name}
    create(connection, limits=TenantLimits()._replace(**highest))
    account = TenantAccount(connection, "acme", NOW_NS)
    account.reserve(Need(1, 1, 10**18))
    account.save()
    account.close(NOW_NS, (1, 10**18), (1, 10**18))
    account.save()  # its event holds the limit
    (status,) = read_statuses(connection, NOW_NS)
    assert status.money.spent_today == 10**18


def test_a_task_may_be_a_releases_own_but_needs_the_name_of_one(connection):
    create(connection, limits=TenantLimits(tasks=("judge", "summarise")))
    with pytest.raises(TenantError, match="'no task' can't be the name of a task") as caught:
        change_limits(connection, "acme", {"tasks": ("judge", "no task")})
    assert "generate_json, rank_candidates, judge" in caught.value.next_step


@pytest.mark.parametrize(
    "change",
    [
        lambda connection, name: change_limits(connection, name, {"tasks": None}),
        lambda connection, name: rotate_key(connection, name, 0, NOW_NS),
        lambda connection, name: revoke_keys(connection, name, None, NOW_NS),
    ],
)
@pytest.mark.parametrize("name", ["globex", "Acme", "acme ", "\udcff", ""])
def test_a_tenant_that_does_not_exist_is_not_made(connection, change, name):
    create(connection)
    with pytest.raises(TenantError, match="there is no tenant"):
        change(connection, name)
    assert [status.name for status in read_statuses(connection, NOW_NS)] == ["acme"]
    assert key_states(connection, NOW_NS) == ["valid"]


def test_after_a_rotation_both_keys_are_valid_until_the_time_is_over(connection):
    first = create(connection)
    rotation = rotate_key(connection, "acme", HOUR_NS, NOW_NS)
    assert (rotation.rotated.id, rotation.rotated.ends_ns) == (digest_of(first).hex()[:8], NOW_NS + HOUR_NS)
    assert rotation.ended == []
    second = rotation.new_key.key
    assert names_of_valid(connection, first, second, now_ns=NOW_NS + HOUR_NS - 1) == ["acme", "acme"]
    assert names_of_valid(connection, first, second, now_ns=NOW_NS + HOUR_NS) == [None, "acme"]


def test_a_rotation_without_grace_ends_the_last_key_at_once(connection):
    first = create(connection)
    rotation = rotate_key(connection, "acme", 0, NOW_NS)
    assert (rotation.rotated, [key.state for key in rotation.ended]) == (None, ["ended"])
    assert names_of_valid(connection, first, rotation.new_key.key, now_ns=NOW_NS) == [None, "acme"]


def test_a_rotation_while_two_keys_are_valid_ends_the_older_one(connection):
    first = create(connection)
    second = rotate_key(connection, "acme", HOUR_NS, NOW_NS).new_key.key
    rotation = rotate_key(connection, "acme", HOUR_NS, NOW_NS + 1)
    assert [key.id for key in rotation.ended] == [digest_of(first).hex()[:8]]
    valid = names_of_valid(connection, first, second, rotation.new_key.key, now_ns=NOW_NS + 2)
    assert valid == [None, "acme", "acme"]


def test_a_rotation_after_the_clock_was_set_back_still_ends_the_older_key(connection):
    first = create(connection)
    second = rotate_key(connection, "acme", HOUR_NS, NOW_NS - 9).new_key.key
    rotation = rotate_key(connection, "acme", HOUR_NS, NOW_NS - 8)
    assert names_of_valid(connection, first, second, now_ns=NOW_NS) == [None, "acme"]
    assert rotation.rotated.id == digest_of(second).hex()[:8]


def test_a_revocation_ends_all_keys_and_a_rotation_brings_the_tenant_back(connection):
    first = create(connection)
    second = rotate_key(connection, "acme", HOUR_NS, NOW_NS).new_key.key
    other = create(connection, "globex")
    assert [key.state for key in revoke_keys(connection, "acme", None, NOW_NS + 1)] == ["ended", "ended"]
    valid = names_of_valid(connection, first, second, other, now_ns=NOW_NS + 1)
    assert valid == [None, None, "globex"]
    assert revoke_keys(connection, "acme", None, NOW_NS + 2) == []
    third = rotate_key(connection, "acme", HOUR_NS, NOW_NS + 3)
    assert (third.rotated, third.ended) == (None, [])
    assert names_of_valid(connection, first, second, third.new_key.key, now_ns=NOW_NS + 4) == [None, None, "acme"]
    assert key_states(connection, NOW_NS + 4) == ["ended", "ended", "valid"]


def test_one_key_can_be_revoked_alone(connection):
    first = create(connection)
    second = rotate_key(connection, "acme", HOUR_NS, NOW_NS).new_key.key
    (revoked,) = revoke_keys(connection, "acme", digest_of(second).hex()[:8], NOW_NS + 1)
    assert (revoked.state, revoked.ends_ns) == ("ended", NOW_NS + 1)
    assert names_of_valid(connection, first, second, now_ns=NOW_NS + 1) == ["acme", None]
    assert revoke_keys(connection, "acme", revoked.id, NOW_NS + 2) == []
    assert sorted(key_states(connection, NOW_NS + 2)) == ["ended", "rotated"]


@pytest.mark.parametrize("key_id", ["00000000", "", "%", "acme", "\udcff"])
def test_an_unknown_key_id_revokes_nothing(connection, key_id):
    create(connection)
    with pytest.raises(TenantError, match="has no key"):
        revoke_keys(connection, "acme", key_id, NOW_NS)
    assert key_states(connection, NOW_NS) == ["valid"]


def test_another_tenants_key_id_revokes_nothing(connection):
    create(connection)
    other = create(connection, "globex")
    with pytest.raises(TenantError, match="has no key"):
        revoke_keys(connection, "acme", digest_of(other).hex()[:8], NOW_NS)
    assert names_of_valid(connection, other, now_ns=NOW_NS) == ["globex"]


@pytest.mark.parametrize(
    ("text", "nano_usd"),
    [
        ("0", 0),
        ("12.5", 12_500_000_000),
        ("0.000000001", 1),
        ("0.1000000000000", 100_000_000),
        ("1000000000", 10**18),
        ("999999999.999999999", 10**18 - 1),
    ],
)
def test_dollars_are_read_exactly(text, nano_usd):
    assert parse_usd(text) == nano_usd


@pytest.mark.parametrize("text", ["0.0000000001", "1.0000000000000000000000000001", "5.1234567891"])
def test_dollars_finer_than_nano_dollars_are_refused(text):
    with pytest.raises(ValueError, match="is finer than"):
        parse_usd(text)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1e3", "nan", "inf", "1,5", "1_000", ".5", "5.", " 1", "1\n", "$1", "١", "1000000000.000000001",
     "1000000001", "9" * 5_000],
)  # fmt: skip
def test_what_is_no_amount_of_dollars_is_refused(text):
    with pytest.raises(ValueError, match="is no amount"):
        parse_usd(text)


def _create_at_once(state_dir, barrier, outcomes) -> None:
    """One of several processes; the ledger may not exist yet."""
    barrier.wait()
    connection = open_database(state_dir / FILE_NAME)
    try:
        outcomes.put(create_tenant(connection, "acme", NO_LIMITS, time.time_ns()).new_key.key)
    except TenantError as error:
        outcomes.put(str(error))
    finally:
        connection.close()


def test_of_several_processes_that_create_one_tenant_exactly_one_succeeds(tmp_path):
    barrier, outcomes = SPAWN.Barrier(3), SPAWN.Queue()
    processes = [SPAWN.Process(target=_create_at_once, args=(tmp_path, barrier, outcomes)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [outcomes.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    (key,) = [result for result in results if result != "tenant acme exists already"]
    connection = open_database(tmp_path / FILE_NAME)
    assert names_of_valid(connection, key, now_ns=time.time_ns()) == ["acme"]
    assert key_states(connection, time.time_ns()) == ["valid"]
    connection.close()
