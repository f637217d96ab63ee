"""The board in Chromium, used by its labels and without JavaScript."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_policy.ledger.outbox import new_event
from llm_policy.release.release import Release
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.board_client import LiveBoard, alert, live_board
from tests.board_releases import write_store
from tests.board_tenants import write_tenants

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt install chromium")
NAME = DEFAULT_RELEASE_DIR.resolve().name
SCREENSHOTS = Path("build/screenshots")
SCRIPT = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[LiveBoard]:
    with live_board(tmp_path) as live:
        yield live


def log_in(browser: Browser, board: LiveBoard, token: str, scheme: Any = "light", javascript: bool = False) -> Page:
    context = browser.new_context(base_url=board.url, color_scheme=scheme, java_script_enabled=javascript)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("Your token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Releases", exact=True)).to_be_visible()
    return page


def take_screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def test_two_reviewers_sign_off_and_the_api_lists_them(browser: Browser, board: LiveBoard) -> None:
    for name, scheme in (("Ada", "light"), ("Grace", "dark")):
        page = log_in(browser, board, board.add(name), scheme)
        page.get_by_role("link", name=NAME).click()
        page.get_by_label("Comment").fill(f"{name} looked at the evidence")
        take_screenshot(page, f"release-{scheme}")
        page.get_by_role("button", name="Sign off").click()
        expect(page.get_by_role("button", name="Withdraw my sign-off")).to_be_visible()
        page.context.close()
    release = Release.open(DEFAULT_RELEASE_DIR)
    hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
    bearer = {"authorization": f"Bearer {board.add_reader()}"}
    answer = httpx.get(f"{board.url}/api/signoffs", params=hashes, headers=bearer)
    assert [each["reviewer"] for each in answer.json()["signoffs"]] == ["Ada", "Grace"]


@pytest.mark.slow
def test_alerts_from_webhooks_are_listed_and_charted(browser: Browser, board: LiveBoard) -> None:
    now_ns = time.time_ns()
    for number, rule in enumerate(("queue_delay", "cost", "schema_violation", "engine_unhealthy") * 6):
        board.send(alert(rule, number + 1, now_ns - number * 3_000_000_000_000))
    for scheme in ("light", "dark"):
        page = log_in(browser, board, board.add(f"Ada {scheme}"), scheme)
        page.get_by_role("link", name="Alerts").click()
        expect(page.get_by_role("img", name="Breaches per hour")).to_be_visible()
        expect(page.get_by_text("24 windows")).to_be_visible()
        expect(page.get_by_text("Breaches by hour, UTC")).to_be_visible()
        top, half, zero = (int(text) for text in page.locator(".plot .ticks span").all_inner_texts())
        assert (top, half, zero) == (2 * half, half, 0)
        assert page.locator(".plot .hours span").count() == 6
        take_screenshot(page, f"alerts-{scheme}")
        page.context.close()


def test_tenants_are_listed_with_their_budgets_and_each_has_a_chart_of_30_days(
    browser: Browser, board: LiveBoard
) -> None:
    write_tenants(board.settings.state_dir)
    page = log_in(browser, board, board.add("Ada"))
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Tenants").click()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="acme"))
    expect(row.get_by_role("img", name="4 % spent, 2 % reserved")).to_be_visible()
    expect(row).to_contain_text("$0.24 of $5.00")
    row.get_by_role("link", name="acme").click()
    expect(page.get_by_role("heading", name="acme", exact=True)).to_be_visible()
    chart = page.get_by_role("img", name="Cost by day")
    expect(chart).to_be_visible()
    assert chart.locator("rect").count() == 30
    page.get_by_text("By day", exact=True).click()
    assert page.get_by_role("table", name="Use by UTC day").get_by_role("row").count() == 31


# The words that are broken into two lines: each word of a label is one rectangle.
BROKEN_WORDS = """labels => labels.flatMap(label => {
    const broken = [];
    const texts = document.createTreeWalker(label, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        for (const word of texts.currentNode.data.matchAll(/[^\\s]+/g)) {
            const range = document.createRange();
            range.setStart(texts.currentNode, word.index);
            range.setEnd(texts.currentNode, word.index + word[0].length);
            if (range.getClientRects().length > 1) broken.push(word[0]);
        }
    }
    return broken;
})"""


@pytest.mark.parametrize("width", [400, 1_280])
def test_no_label_of_a_release_breaks_inside_a_word_and_the_form_is_in_the_verdict(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    write_store(tmp_path / "artifacts")
    with live_board(tmp_path, tmp_path / "artifacts") as board:
        page = log_in(browser, board, board.add("Ada"), javascript=True)
        page.set_viewport_size({"width": width, "height": 900})
        page.goto("/releases/bad")
        verdict = page.get_by_role("region", name="Not ready to promote")
        expect(verdict.get_by_role("button", name="Sign off")).to_be_visible()
        expect(page.get_by_role("rowheader", name="Engine: max batch size")).to_be_visible()
        expect(page.get_by_text("Max queue delay (µs)").first).to_be_hidden()
        take_screenshot(page, f"release-difference-{width}")
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        expect(page.get_by_text("Max queue delay (µs)").first).to_be_visible()
        for name, labels in (("verdict", "dt, h1, h2, h3, summary, label, caption, .tag"), ("tables", "thead th")):
            assert page.eval_on_selector_all(labels, BROKEN_WORDS) == [], name
        take_screenshot(page, f"release-unfolded-{width}")


def test_a_reviewer_lands_on_the_page_that_was_asked_for(browser: Browser, board: LiveBoard) -> None:
    page = browser.new_context(base_url=board.url, java_script_enabled=False).new_page()
    page.goto(f"/releases/{NAME}")
    for token in ("wrong", board.add("Ada")):
        page.get_by_label("Your token").fill(token)
        page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name=NAME)).to_be_visible()


def test_no_script_in_any_field_runs_even_with_javascript(browser: Browser, board: LiveBoard) -> None:
    board.send(alert(rule=SCRIPT, samples=[SCRIPT], window_start=SCRIPT))
    data = {"from": SCRIPT, "to": SCRIPT, "root_cause": SCRIPT}
    board.send(new_event("llm_rollback_completed", data, time.time_ns()).body)
    page = log_in(browser, board, board.add("Ada"), javascript=True)
    blocked: list[str] = []
    page.on("console", lambda message: blocked.append(message.text) if message.type == "error" else None)
    for link in ("Alerts", "History", "Releases"):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=link).click()
        assert "owned" not in page.title()
    page.get_by_role("link", name="History").click()
    expect(page.get_by_text(SCRIPT).first).to_be_visible()
    assert blocked == []


def test_form_fields_and_tables_have_names_and_pages_have_one_heading(browser: Browser, board: LiveBoard) -> None:
    page = log_in(browser, board, board.add("Ada"), javascript=True)
    write_tenants(board.settings.state_dir)
    for path in ("/", "/alerts", "/tenants", "/tenants/acme", "/history", f"/releases/{NAME}"):
        page.goto(path)
        assert page.locator("h1").count() == 1
        assert page.locator("html").get_attribute("lang") == "en"
        unnamed = "els => els.filter(e => !e.labels?.length && !e.getAttribute('aria-label')).map(e => e.outerHTML)"
        assert page.eval_on_selector_all("input:not([type=hidden]), textarea", unnamed) == []
        assert page.eval_on_selector_all("table", "els => els.filter(e => !e.caption).length") == 0


def test_a_reviewer_can_log_in_with_the_keyboard_alone(browser: Browser, board: LiveBoard) -> None:
    page = browser.new_context(base_url=board.url).new_page()
    page.goto("/login")
    expect(page.get_by_label("Your token")).to_be_focused()
    page.keyboard.type(board.add("Ada"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Releases", exact=True)).to_be_visible()


def press_until(page: Page, key: str, target: Locator) -> None:
    """Press `key` until `target` has the focus."""
    for _ in range(40):
        page.keyboard.press(key)
        if target.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"{key} does not reach the target")


def test_a_reviewer_can_sign_off_with_the_keyboard_alone(browser: Browser, board: LiveBoard) -> None:
    page = log_in(browser, board, board.add("Ada"), javascript=True)
    press_until(page, "Tab", page.get_by_role("link", name=NAME))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=NAME)).to_be_visible()
    press_until(page, "Tab", page.get_by_label("Comment"))
    page.keyboard.type("by keyboard")
    page.keyboard.press("Tab")
    assert page.get_by_role("button", name="Sign off").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Withdraw my sign-off")).to_be_visible()
    expect(page.get_by_role("cell", name="by keyboard")).to_be_visible()


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1_200, 1_400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_screen(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    write_store(tmp_path / "artifacts")
    write_tenants(tmp_path / "state")
    with live_board(tmp_path, tmp_path / "artifacts") as board:
        for number, rule in enumerate(("queue_delay", "cost", "schema_violation", "engine_unhealthy")):
            board.send(alert(rule, 7, time.time_ns() - number * 3_600_000_000_000, samples=["x" * 128]))
        for event_type in ("llm_release_promoted", "llm_rollback_completed", "llm_release_change_failed", "llm_new"):
            data = {"from": "r6", "to": "r7", "root_cause": "judge scores everything 7" * 9, "duration_s": 14.8}
            board.send(new_event(event_type, data, time.time_ns()).body)
        page = log_in(browser, board, board.add("Ada"), scheme, javascript=True)
        page.set_viewport_size({"width": width, "height": 800})
        for name, path in (
            *(("overview", "/"), ("alerts", "/alerts"), ("history", "/history")),
            *(("tenants", "/tenants"), ("tenant", "/tenants/acme")),
            *((f"release-{name}", f"/releases/{name}") for name in ("good", "bad")),
        ):
            page.goto(path)
            page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
            too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(too_wide) == 0, path
            take_screenshot(page, f"{name}-{scheme}-{width}")
