"""The page /usage shows a tenant its own usage, the admin key everybody's, and nobody else anything."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest

from llm_policy.api_key import create_key
from llm_policy.ledger import usage
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.usage import Usage, UsageKey
from llmstack.supervision.page_server import Page, Query
from llmstack.supervision.usage_page import MAX_DAYS, MAX_GROUPS, UsagePage
from tests.tenants import add_tenant

ADMIN_KEY = "an-admin-key-of-the-tests"
ENGINE = "sha256:" + "a" * 64
TODAY = time.time_ns() // (86_400 * 10**9)


class Scene:
    """A ledger with two tenants and a label, and its page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(open_database(path)) as connection:
            self.key, self.other_key = add_tenant(connection, "acme"), add_tenant(connection, "bolt")
            usage.add(
                connection,
                {
                    UsageKey("acme", TODAY, "judge", "", ENGINE): Usage(3, 300, 30, 62_000),
                    UsageKey("acme", TODAY - 40, "judge", "", ENGINE): Usage(1, 100, 10, 1),
                    UsageKey("bolt", TODAY, "judge", "order", ENGINE): Usage(5, 500, 50, 7),
                    UsageKey("label", TODAY, "", "", ENGINE): Usage(2, 200, 20, 9),
                },
            )
            usage.add_refusals(connection, {("acme", TODAY, "rate_limited"): 4})
        self.page = UsagePage(path, ADMIN_KEY, lambda: {ENGINE: "Qwen/Qwen3-32B"})

    def ask(self, *headers: tuple[str, str], **parameters: str) -> tuple[int, dict]:
        page = self.ask_page(*headers, text=urlencode(parameters))
        return page.status, json.loads(page.body)

    def ask_page(self, *headers: tuple[str, str], text: str) -> Page:
        return self.page.answer(Query(text, headers))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / FILE_NAME)


def bearer(key: str) -> tuple[str, str]:
    return "authorization", f"Bearer {key}"


ADMIN = ("x-llmstack-admin-key", ADMIN_KEY)


def test_a_key_shows_its_tenants_last_30_days(scene):
    for header in (bearer(scene.key), ("x-api-key", scene.key)):
        status, document = scene.ask(header)
        assert (status, document["tenant"], document["by"]) == (200, "acme", "day")
        assert len(document["data"]) == 1
        assert document["totals"] == {
            "num_rows": 3,
            "num_refused": 4,
            "num_prompt_tokens": 300,
            "num_completion_tokens": 30,
            "cost_nano_usd": 62_000,
            "cost_usd": "0.000062000",
        }


def test_the_admin_key_shows_all_tenants_and_each(scene):
    status, document = scene.ask(ADMIN, by="tenant")
    assert (status, document["tenant"]) == (200, None)
    assert [row["tenant"] for row in document["data"]] == ["acme", "bolt", "label"]
    assert scene.ask(ADMIN, by="schema", tenant="bolt")[1]["data"][0]["schema"] == "order"
    assert scene.ask(ADMIN, tenant="no such tenant")[1]["totals"]["num_rows"] == 0


def test_a_key_never_shows_another_tenant(scene):
    assert scene.ask(bearer(scene.key), tenant="acme")[0] == 200
    status, document = scene.ask(bearer(scene.key), tenant="bolt")
    assert (status, document["error"][:18]) == (403, "tenant_forbidden: ")
    assert [row["tenant"] for row in scene.ask(bearer(scene.key), by="tenant")[1]["data"]] == ["acme"]


def test_a_day_without_another_and_a_longer_period(scene):
    first = time.strftime("%Y-%m-%d", time.gmtime((TODAY - 40) * 86_400))
    last = time.strftime("%Y-%m-%d", time.gmtime(TODAY * 86_400))
    assert scene.ask(bearer(scene.key), since=first, until=first)[1]["totals"]["num_rows"] == 1
    document = scene.ask(bearer(scene.key), since=first, until=last)[1]
    assert (document["since"], document["until"], document["totals"]["num_rows"]) == (first, last, 4)


def test_models_have_their_names(scene):
    (row,) = scene.ask(bearer(scene.key), by="model")[1]["data"]
    assert (row["model"], row["engine_hash"]) == ("Qwen/Qwen3-32B", ENGINE)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("authorization", "Basic abc"),),
        (("x-tenant", "acme"),),
        (("cookie", "lsk_"),),
    ],
)
def test_without_a_key_one_is_missing(scene, headers):
    status, document = scene.ask(*headers, tenant="acme")
    assert (status, document["error"].split(":")[0]) == (401, "missing_api_key")
    assert scene.ask_page(*headers, text="").headers == (("WWW-Authenticate", "Bearer"),)


def test_an_invalid_key_is_rejected_and_not_quoted(scene):
    unknown = create_key()
    attempts = [
        (bearer(unknown),),
        (bearer(scene.key[:-1]),),
        (bearer(scene.key + " "),),
        (bearer(scene.key), ("x-api-key", scene.key)),
        (bearer(scene.key), bearer(scene.key)),
        (bearer(scene.key), ADMIN),
        (ADMIN, ADMIN),
        (bearer(ADMIN_KEY),),
        (("x-llmstack-admin-key", scene.key),),
        (("x-llmstack-admin-key", ""),),
        (("x-llmstack-admin-key", "\xff"),),
        (("x-api-key", ""),),
        (("x-api-key", "' OR 1=1 --"),),
    ]
    for headers in attempts:
        status, document = scene.ask(*headers)
        assert (status, document["error"].split(":")[0]) == (401, "invalid_api_key"), headers
        assert "lsk_" not in document["error"].replace("lsk_...", "")
        assert ADMIN_KEY not in document["error"]


def test_a_revoked_key_shows_nothing(scene):
    with closing(open_database(scene.path)) as connection:
        connection.execute("UPDATE tenant_key SET ends_ns = ? WHERE tenant = 'acme'", (time.time_ns(),))
    assert scene.ask(bearer(scene.key))[0] == 401
    assert scene.ask(bearer(scene.other_key))[0] == 200


@pytest.mark.parametrize(
    "text",
    [
        "by=code",
        "by=",
        "by=day&by=day",
        "group=day",
        "since=2026-1-1",
        "since=yesterday",
        "since=",
        "since=1969-12-31",
        "until=9999-12-31",
        "since=2026-01-02&until=2026-01-01",
        "since=2024-01-01&until=2026-01-01",
        "since=٢٠٢٦-٠١-٠١",
        "a" * 5_000,
        "%ff=%00",
    ],
)
def test_a_query_that_is_not_understood_is_an_error_that_does_not_quote_it(scene, text):
    page = scene.ask_page(bearer(scene.key), text=text)
    error = json.loads(page.body)["error"]
    assert (page.status, error[:15]) == (400, "invalid_input: ")
    assert len(error) < 200


def test_the_key_is_checked_before_the_query(scene):
    assert scene.ask(by="code")[0] == 401
    assert scene.ask(bearer(create_key()), by="code")[0] == 401


def test_the_longest_period_is_answered(scene):
    assert scene.ask(ADMIN, since="2025-01-01", until="2026-02-04")[0] == 200
    assert MAX_DAYS == 400
    assert scene.ask(ADMIN, since="2025-01-01", until="2026-02-05")[0] == 400


def test_the_number_of_groups_is_bounded(scene):
    more = {UsageKey(f"t{number}", TODAY, "", "", ENGINE): Usage(1, 1, 1, 1) for number in range(MAX_GROUPS)}
    with closing(open_database(scene.path)) as connection:
        usage.add(connection, more)
    document = scene.ask(ADMIN, by="tenant")[1]
    assert (len(document["data"]), document["num_groups"]) == (MAX_GROUPS, MAX_GROUPS + 3)
    assert document["totals"]["num_rows"] == MAX_GROUPS + 10
    assert "acme" in [row["tenant"] for row in document["data"]]


def test_a_query_that_takes_too_long_ends(scene):
    more = {UsageKey(f"t{number}", TODAY, "", "", ENGINE): Usage(1, 1, 1, 1) for number in range(10_000)}
    with closing(open_database(scene.path)) as connection:
        usage.add(connection, more)
    scene.page = UsagePage(scene.path, ADMIN_KEY, dict, max_query_s=0)
    status, document = scene.ask(ADMIN, by="tenant")
    assert (status, document["error"].split(":")[0]) == (503, "deadline_exceeded")


def test_a_ledger_that_can_not_be_read_is_unavailable(tmp_path):
    page = UsagePage(tmp_path / "missing", ADMIN_KEY, dict)
    answer = page.answer(Query("", (ADMIN,)))
    assert (answer.status, b"ledger_unavailable: " in answer.body) == (503, True)
    assert str(tmp_path).encode() not in answer.body
