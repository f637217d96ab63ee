"""The pages of tenants: what they read, who sees them, and that no key is on them."""

import html
import os
import re
import time
from contextlib import closing
from datetime import date

import httpx
import pytest

from llm_policy.api_key import digest_of
from llm_policy.ledger.database import FILE_NAME
from llm_policy.ledger.tenant import TenantLimits
from llmstack.board.budget_use import BudgetUse
from llmstack.board.cost_chart import NUM_DAYS, axis_top, make_chart
from llmstack.board.sessions import Session
from llmstack.board.template_filters import format_usd
from llmstack.board.tenant_pages import LedgerUnreadable, open_ledger, tenant_page, tenants_page
from llmstack.tenants.usage_report import UsageSums
from tests import ledgers
from tests.board_client import live_board
from tests.board_tenants import LIMITS, write_tenants
from tests.tenants import add_tenant

SESSION = Session("Ada", "token")
TODAY = date(2026, 11, 29)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    directory = tmp_path_factory.mktemp("board")
    keys = write_tenants(directory / "state")
    with live_board(directory) as live, closing(live.log_in(live.add("Ada"))) as live.client:
        live.keys = keys
        yield live


def text_of(page: str) -> str:
    """The words of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_only_who_has_logged_in_sees_tenants(board):
    for path in ("/tenants", "/tenants/acme", "/tenants/nobody"):
        answer = httpx.get(board.url + path)
        assert (answer.status_code, answer.headers["location"], answer.text) == (303, f"/login?next={path}", "")


def test_every_tenant_is_listed_with_what_it_spent_and_reserved(board):
    page = text_of(board.client.get("/tenants").text)
    assert all(name in page for name in LIMITS)
    assert "$0.24 of $5.00 spent $0.10 reserved 4 % spent, 2 % reserved" in page
    assert "83 % spent" in page
    assert "✘ nothing left" in page
    assert "✘ no valid key" in page
    assert "✔ 1 valid 1 rotated" in page


def test_a_tenants_page_has_its_usage_refusals_limits_and_keys(board):
    page = text_of(board.client.get("/tenants/acme").text)
    assert f"for {2 * NUM_DAYS} rows" in page
    for words in ("By task, 30 days", "judge 30 15,000 1,200", "ad hoc 30", "requests in flight 1 4", "rotated"):
        assert words in page
    assert "tenant_budget_overrun 1 1" in text_of(board.client.get("/tenants/spent").text)


def test_models_have_the_names_of_the_releases_engines(tmp_path):
    write_tenants(tmp_path, 1)
    with open_ledger(tmp_path) as ledger:
        found = tenant_page(ledger, SESSION, "acme", lambda: {"sha256:x": "Qwen3-32B"}, time.time_ns())
    assert found["model_names"] == {"sha256:x": "Qwen3-32B"}
    assert [len(key) for key, _ in found["tables"]["Model"].groups] == [len("sha256:") + 64]


def test_no_key_and_no_digest_is_on_any_page(board):
    pages = "".join(board.client.get(path).text for path in ("/tenants", *(f"/tenants/{name}" for name in LIMITS)))
    for key in board.keys.values():
        assert key not in pages
        assert digest_of(key).hex()[:12] not in pages
        assert digest_of(key).hex()[:8] in pages


def test_an_unknown_tenant_is_not_found(board):
    for path in ("/tenants/nobody", "/tenants/acme'--", "/tenants/..%2facme"):
        assert board.client.get(path).status_code == 404


@pytest.mark.parametrize("page", ["0", "-1", "99999999", "x"])
def test_any_page_number_is_accepted(board, page):
    assert board.client.get("/tenants", params={"page": page}).status_code == 200


def test_the_pages_only_read_the_ledger(board):
    before = (board.settings.state_dir / FILE_NAME).read_bytes()
    for path in ("/tenants", "/tenants/acme"):
        assert board.client.get(path).status_code == 200
        assert board.client.post(path).status_code == 405
    assert (board.settings.state_dir / FILE_NAME).read_bytes() == before
    with pytest.raises(LedgerUnreadable, match="readonly"), open_ledger(board.settings.state_dir) as ledger:
        ledger.execute("DELETE FROM tenant")


def test_without_a_ledger_the_page_names_the_option(tmp_path):
    with live_board(tmp_path) as board, closing(board.log_in(board.add("Ada"))) as client:
        page = client.get("/tenants")
        assert (page.status_code, "LLMSTACK_STATE_DIR" in page.text) == (200, True)
        assert client.get("/tenants/acme").status_code == 503
    assert not (tmp_path / "state").exists()


def test_without_tenants_the_page_says_how_to_make_one(tmp_path):
    (tmp_path / "state").mkdir()
    ledgers.open_ledger(tmp_path / "state").connection.close()
    with live_board(tmp_path) as board, closing(board.log_in(board.add("Ada"))) as client:
        assert "llmstack tenant create NAME" in client.get("/tenants").text


def test_tenants_are_shown_in_pages(tmp_path):
    ledger = ledgers.open_ledger(tmp_path)
    for number in range(101):
        add_tenant(ledger.connection, f"t{number:03d}")
    ledger.connection.close()
    with open_ledger(tmp_path) as connection:
        pages = [tenants_page(connection, SESSION, page, time.time_ns()) for page in (1, 2, 3, 4)]
    assert [len(page["rows"]) for page in pages] == [50, 50, 1, 1]
    assert (pages[3]["page"], pages[3]["last_page"], pages[3]["num_tenants"]) == (3, 3, 101)


def num_database_steps(state_dir) -> int:
    """The instructions, in hundreds, that SQLite executes for the list of tenants."""
    steps = []
    with open_ledger(state_dir) as connection:
        connection.set_progress_handler(lambda: steps.append(1), 100)
        tenants_page(connection, SESSION, 1, time.time_ns())
    return len(steps)


def test_the_work_for_the_list_is_proportional_to_the_number_of_tenants(tmp_path):
    ledger, num_steps = ledgers.open_ledger(tmp_path), []
    for numbers in (range(100), range(100, 1_000)):
        for number in numbers:
            add_tenant(ledger.connection, f"t{number}")
        num_steps.append(num_database_steps(tmp_path))
    ledger.connection.close()
    assert num_steps[1] < 15 * num_steps[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_directory_that_may_only_be_read_is_enough_while_the_service_runs(tmp_path):
    ledger = ledgers.open_ledger(tmp_path)
    add_tenant(ledger.connection, "acme", TenantLimits())
    tmp_path.chmod(0o500)
    try:
        with open_ledger(tmp_path) as connection:
            assert tenants_page(connection, SESSION, 1, time.time_ns())["num_tenants"] == 1
    finally:
        tmp_path.chmod(0o700)
        ledger.connection.close()


@pytest.mark.parametrize(
    ("spent", "reserved", "limit", "expected"),
    [
        (0, 0, None, ("ok", 100, 0)),
        (0, 0, 10, ("ok", 0, 0)),
        (79, 5, 100, ("ok", 79, 5)),
        (80, 5, 100, ("near", 80, 5)),
        (50, 50, 100, ("full", 50, 50)),
        (70, 90, 100, ("full", 70, 30)),
        (200, 0, 100, ("full", 100, 0)),
        (0, 0, 0, ("full", 100, 0)),
        (999, 0, 1_000, ("near", 99, 0)),
    ],
)
def test_the_bar_of_a_budget_is_never_longer_than_its_limit(spent, reserved, limit, expected):
    use = BudgetUse("day", spent, reserved, limit)
    assert (use.level, use.spent_percent, use.reserved_percent) == expected


def test_a_chart_has_a_bar_for_every_day_and_the_highest_below_the_top():
    usage = {
        "2026-11-29": UsageSums(1, 1, 1, 3_000),
        "2026-10-31": UsageSums(1, 1, 1, 1_500),
        "2026-10-30": UsageSums(),
    }
    chart = make_chart(usage, TODAY)
    assert [bar.day.isoformat() for bar in chart.bars][:: NUM_DAYS - 1] == ["2026-10-31", "2026-11-29"]
    assert (chart.top_nano_usd, chart.bars[-1].height, chart.bars[0].height) == (4_000, 75, 37.5)
    assert all(bar.y + bar.height == 100 for bar in chart.bars)
    assert chart.bars[-1].x + chart.bars[-1].width <= 100
    assert len(chart.labels) * 5 == NUM_DAYS


@pytest.mark.parametrize("highest", [0, 1, 10, 11, 99, 100, 101, 999_999, 10**12 + 1])
def test_the_top_of_the_axis_is_round_and_less_than_twice_the_highest_bar(highest):
    top = axis_top(highest)
    assert highest <= top
    assert top <= max(10, 2 * highest)
    assert top % 2 == 0
    assert len(str(top).rstrip("0")) == 1


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (612_000, "$0.000612"),
        (5_000_000_000, "$5.00"),
        (1_234_500_000, "$1.2345"),
        (12_345_678_900, "$12.35"),
        (1_234_567_000_000_000, "$1,234,567.00"),
        (-250_000_000, "-$0.25"),
    ],
)
def test_money_is_as_exact_as_its_size_needs(nano_usd, text):
    assert format_usd(nano_usd) == text
