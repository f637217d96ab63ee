"""Rejected rows that are counted instead of stored."""

import pytest

from llm_policy.ledger import metric_total, rejection_count
from llm_policy.ledger.database import transaction
from llm_policy.ledger.rejection_count import MINUTES_PER_DAY, NS_PER_MINUTE, SAMPLE_ROWS, SAMPLED_CODES
from llm_policy.ledger.row_record import RowRecord
from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, rows, settlement, states, total
from tests.manifests import ENGINE_HASH

DAY_NS = MINUTES_PER_DAY * NS_PER_MINUTE
NOON_NS = 20_000 * DAY_NS + DAY_NS // 2
HEADERLESS = RowRecord(code="missing_header")
NAMELESS = NEW_ROW._replace(tenant="")
NUM_SENT = SAMPLE_ROWS + 5


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.connection.close()


def counts(ledger):
    return ledger.connection.execute(
        "SELECT minute, code, task, engine_hash, num_samples, num_rows FROM rejection_count ORDER BY 1, 2, 3"
    ).fetchall()


def test_a_minute_stores_a_sample_of_the_rejections_without_headers_and_counts_the_others(ledger):
    for _ in range(NUM_SENT):
        ledger.record([[HEADERLESS]], NOON_NS)
    assert len(rows(ledger)) == SAMPLE_ROWS
    assert counts(ledger) == [(NOON_NS // NS_PER_MINUTE, "missing_header", "", ENGINE_HASH, SAMPLE_ROWS, 5)]
    assert total(ledger, metric_total.REJECTED, "missing_header") == NUM_SENT
    assert total(ledger, metric_total.REQUESTS, "none,refused") == NUM_SENT


def test_a_row_that_is_only_counted_has_no_ledger_id(ledger):
    recorded = ledger.record([[HEADERLESS]] * NUM_SENT, NOON_NS)
    ids = [row.ledger_id for (row,) in recorded]
    assert ids == [*range(1, SAMPLE_ROWS + 1), *[None] * 5]


def test_the_next_minute_and_another_code_have_samples_of_their_own(ledger):
    ledger.record([[HEADERLESS]] * NUM_SENT, NOON_NS)
    ledger.record([[HEADERLESS]] * NUM_SENT, NOON_NS + NS_PER_MINUTE)
    ledger.record([[HEADERLESS._replace(code="invalid_header")]] * NUM_SENT, NOON_NS)
    assert len(rows(ledger)) == 3 * SAMPLE_ROWS


def test_two_stubs_share_the_sample_of_a_minute(ledger, tmp_path):
    other = open_ledger(tmp_path)
    for _ in range(NUM_SENT):
        ledger.record([[HEADERLESS]], NOON_NS)
        other.record([[HEADERLESS]], NOON_NS)
    assert len(rows(ledger)) == SAMPLE_ROWS


@pytest.mark.parametrize("code", sorted(SAMPLED_CODES))
def test_a_tenant_that_does_not_name_the_engine_is_only_sampled(ledger, code):
    ledger.record([[NEW_ROW._replace(code=code)]] * NUM_SENT, NOON_NS)
    assert len(rows(ledger)) == SAMPLE_ROWS


def test_rejections_of_a_sender_without_tenant_are_only_sampled_and_keep_their_task(ledger):
    ledger.record([[NAMELESS._replace(code="invalid_input")]] * NUM_SENT, NOON_NS)
    assert len(rows(ledger)) == SAMPLE_ROWS
    assert counts(ledger)[0][1:3] == ("invalid_input", "judge")


def test_every_rejection_of_a_sender_that_names_engine_and_tenant_is_stored(ledger):
    ledger.record([[NEW_ROW._replace(code="invalid_input")]] * NUM_SENT, NOON_NS)
    assert len(rows(ledger)) == NUM_SENT
    assert counts(ledger) == []


def test_every_canary_is_stored(ledger):
    ledger.record([[HEADERLESS._replace(is_canary=True)]] * NUM_SENT, NOON_NS)
    assert len(rows(ledger)) == NUM_SENT


def test_every_admitted_row_is_stored(ledger):
    for _ in range(NUM_SENT):
        ledger.settle([settlement(admit(ledger, NAMELESS, NOON_NS), NAMELESS)], NOON_NS)
    assert states(ledger) == {"settled": NUM_SENT}


def test_requests_that_are_shed_are_sampled_too(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    admit(ledger, NAMELESS, NOON_NS)
    ledger.record([[NAMELESS]] * NUM_SENT, NOON_NS)
    assert states(ledger) == {"admitted": 1, "refused": SAMPLE_ROWS}


def test_admitted_rows_whose_guide_is_rejected_are_deleted_beyond_the_sample(ledger):
    ids = [admit(ledger, NAMELESS, NOON_NS) for _ in range(NUM_SENT)]
    last = admit(ledger, now_ns=NOON_NS)
    ledger.reject([rejection(row_id, "schema_invalid", NAMELESS) for row_id in ids], NOON_NS)
    assert [row["id"] for row in rows(ledger)] == [*ids[:SAMPLE_ROWS], last]
    assert counts(ledger)[0][4:] == (SAMPLE_ROWS, 5)
    assert total(ledger, metric_total.REJECTED, "schema_invalid") == NUM_SENT


def test_the_newest_row_stays_so_that_its_id_is_not_used_again(ledger):
    ids = [admit(ledger, NAMELESS, NOON_NS) for _ in range(NUM_SENT)]
    ledger.reject([rejection(row_id, "schema_invalid", NAMELESS) for row_id in ids], NOON_NS)
    assert [row["id"] for row in rows(ledger)] == [*ids[:SAMPLE_ROWS], ids[-1]]
    assert counts(ledger)[0][4:] == (SAMPLE_ROWS, 4)
    assert admit(ledger, NAMELESS, NOON_NS) == ids[-1] + 1


def test_the_newest_row_is_deleted_once_a_newer_one_exists(ledger):
    for number in range(1, NUM_SENT + 1):
        assert admit(ledger, NAMELESS, NOON_NS) == number
        ledger.reject([rejection(number, "schema_invalid", NAMELESS)], NOON_NS)
    assert [row["id"] for row in rows(ledger)] == [*range(1, SAMPLE_ROWS + 1), NUM_SENT]
    assert counts(ledger)[0][4:] == (SAMPLE_ROWS, 4)


@pytest.mark.parametrize("code", ["internal", "ledger_unavailable"])
def test_rows_that_the_engine_may_have_worked_for_are_always_stored(ledger, code):
    ids = [admit(ledger, NAMELESS, NOON_NS) for _ in range(NUM_SENT)]
    ledger.reject([rejection(row_id, code, NAMELESS) for row_id in ids], NOON_NS)
    assert states(ledger) == {"refused": NUM_SENT}


def test_a_row_that_is_rejected_twice_is_counted_once(ledger):
    ids = [admit(ledger, NAMELESS, NOON_NS) for _ in range(NUM_SENT)]
    for _ in range(2):
        ledger.reject([rejection(row_id, "schema_invalid", NAMELESS) for row_id in ids], NOON_NS)
    assert total(ledger, metric_total.REJECTED, "schema_invalid") == NUM_SENT
    assert counts(ledger)[0][4:] == (SAMPLE_ROWS, 4)


def test_a_deleted_row_is_not_settled_by_a_late_answer(ledger):
    ids = [admit(ledger, NAMELESS, NOON_NS) for _ in range(NUM_SENT)]
    ledger.reject([rejection(row_id, "schema_invalid", NAMELESS) for row_id in ids], NOON_NS)
    assert ledger.settle([settlement(ids[-2], NAMELESS)], NOON_NS) == [False]
    assert total(ledger, metric_total.COST) == 0


def test_minutes_older_than_a_week_are_rolled_up_into_days(ledger):
    connection = ledger.connection
    for minute in (0, 1, 2):
        ledger.record([[HEADERLESS]] * NUM_SENT, NOON_NS + minute * NS_PER_MINUTE)
    now_ns = NOON_NS + 7 * DAY_NS
    assert not rejection_count.has_old_minutes(connection, now_ns)
    now_ns += 2 * NS_PER_MINUTE
    assert rejection_count.has_old_minutes(connection, now_ns)
    with transaction(connection):
        rejection_count.roll_up(connection, now_ns)
    day, noon = 20_000 * MINUTES_PER_DAY, NOON_NS // NS_PER_MINUTE
    assert [(row[0], *row[4:]) for row in counts(ledger)] == [
        (day, 2 * SAMPLE_ROWS, 10),
        (noon + 2, SAMPLE_ROWS, 5),
    ]
    assert not rejection_count.has_old_minutes(connection, now_ns)
    with transaction(connection):
        rejection_count.roll_up(connection, now_ns + DAY_NS)
    assert [(row[0], *row[4:]) for row in counts(ledger)] == [(day, 3 * SAMPLE_ROWS, 15)]
