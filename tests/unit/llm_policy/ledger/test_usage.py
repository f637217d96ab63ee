"""The sums by tenant, day, task, schema and engine."""

from llm_policy.ledger.budget_window import day_of
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.usage import AD_HOC
from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, settlement
from tests.manifests import ENGINE_HASH

NOW_NS = 1_780_000_000 * 10**9


def sums(ledger):
    return ledger.connection.execute(
        "SELECT tenant, day, task, schema_id, engine_hash, num_rows, num_prompt_tokens, num_completion_tokens, "
        "nano_usd FROM usage_day ORDER BY 1, 2, 3, 4"
    ).fetchall()


def fill(ledger):
    settled, cancelled, refused, late = (admit(ledger, now_ns=NOW_NS) for _ in range(4))
    ad_hoc = admit(ledger, NEW_ROW._replace(schema_id="sha256:0123"), NOW_NS)
    admit(ledger, NEW_ROW._replace(is_canary=True), NOW_NS)
    ledger.settle([settlement(settled)], NOW_NS)
    ledger.settle([settlement(ad_hoc, NEW_ROW._replace(schema_id="sha256:0123"))], NOW_NS + 86_400 * 10**9)
    ledger.reject([rejection(refused, "internal")], NOW_NS)
    ledger.close_unanswered(NOW_NS + 700 * 10**9)
    ledger.settle([settlement(late)], NOW_NS)
    return cancelled


def test_every_row_that_asked_the_engine_counts_once_on_the_day_of_its_admission(tmp_path):
    ledger = open_ledger(tmp_path)
    fill(ledger)
    day = day_of(NOW_NS)
    assert sums(ledger) == [
        ("acme", day, "judge", AD_HOC, ENGINE_HASH, 1, 500, 40, 62_000),
        ("acme", day, "judge", "order", ENGINE_HASH, 3, 1_500, 80, 174_000),
    ]


def test_a_ledger_of_an_earlier_version_gets_its_sums_from_its_rows(tmp_path):
    ledger = open_ledger(tmp_path)
    fill(ledger)
    before = sums(ledger)
    ledger.connection.execute("DROP TABLE usage_day")
    ledger.connection.execute("PRAGMA user_version = 3")
    ledger.connection.close()
    open_database(tmp_path / FILE_NAME).close()
    assert sums(open_ledger(tmp_path)) == before
