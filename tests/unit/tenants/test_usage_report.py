"""The usage report adds up the ledger's sums by any group, exactly."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llm_policy.ledger import usage
from llm_policy.ledger.database import FILE_NAME, open_database, open_read_only
from llm_policy.ledger.usage import Usage, UsageKey
from llmstack.ledger.period import Period
from llmstack.tenants.usage_report import GROUPS, UsageSums, make_usage

DAY_NS = 86_400 * 1_000_000_000
ENGINE, OTHER_ENGINE = "sha256:" + "a" * 64, "sha256:" + "b" * 64
ROWS = {
    UsageKey("acme", 20_000, "judge", "", ENGINE): Usage(3, 300, 30, 2**40 + 1),
    UsageKey("acme", 20_001, "generate_json", "order", ENGINE): Usage(2, 200, 20, 7),
    UsageKey("acme", 20_001, "judge", "", OTHER_ENGINE): Usage(1, 100, 10, 1),
    UsageKey("bolt", 20_001, "judge", usage.AD_HOC, ENGINE): Usage(5, 500, 50, 10**12),
}
REFUSALS = {
    ("acme", 20_001, "rate_limited"): 4,
    ("acme", 20_001, "tenant_budget_overrun"): 2,
    ("idle", 20_000, "tenant_forbidden"): 1,
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_database(tmp_path / FILE_NAME)) as writer:
        usage.add(writer, ROWS)
        usage.add_refusals(writer, REFUSALS)
        with closing(open_read_only(tmp_path / FILE_NAME)) as reader:
            yield reader


def days(first: int, last: int) -> Period:
    return Period(first * DAY_NS, (last + 1) * DAY_NS)


def test_days_have_rows_tokens_cost_and_refusals(ledger):
    report = make_usage(ledger, "day", Period())
    assert report.groups == [
        ("2024-10-04", UsageSums(3, 300, 30, 2**40 + 1, 1)),
        ("2024-10-05", UsageSums(8, 800, 80, 10**12 + 8, 6)),
    ]
    assert report.total == UsageSums(11, 1_100, 110, 2**40 + 10**12 + 9, 7)


def test_a_tenant_sees_its_own_rows_and_refusals_only(ledger):
    report = make_usage(ledger, "day", Period(), "acme")
    assert report.total == UsageSums(6, 600, 60, 2**40 + 9, 6)
    assert make_usage(ledger, "tenant", Period(), "acme").groups == [("acme", report.total)]
    assert make_usage(ledger, "day", Period(), "no such").groups == []


def test_several_tenants_are_added_up(ledger):
    report = make_usage(ledger, "tenant", Period(), ["acme", "idle"])
    assert ([key for key, _ in report.groups], report.total.num_refused) == (["acme", "idle"], 7)
    assert make_usage(ledger, "task", Period(), []).total == UsageSums()


def test_a_tenant_that_was_only_refused_is_in_the_report(ledger):
    groups = dict(make_usage(ledger, "tenant", Period()).groups)
    assert groups["idle"] == UsageSums(num_refused=1)
    assert groups["bolt"].nano_usd == 10**12


@pytest.mark.parametrize(
    ("by", "keys"),
    [("task", ["generate_json", "judge"]), ("schema", ["", "ad hoc", "order"]), ("model", [ENGINE, OTHER_ENGINE])],
)
def test_refusals_are_in_the_total_alone_where_they_are_not_known_by_group(ledger, by, keys):
    report = make_usage(ledger, by, Period())
    assert [key for key, _ in report.groups] == keys
    assert {sums.num_refused for _, sums in report.groups} == {None}
    assert report.total == UsageSums(11, 1_100, 110, 2**40 + 10**12 + 9, 7)


@pytest.mark.parametrize("by", GROUPS)
@pytest.mark.parametrize("tenant", [None, "acme"])
def test_the_groups_add_up_to_the_total(ledger, by, tenant):
    report = make_usage(ledger, by, Period(), tenant)
    assert tuple(map(sum, zip(*(sums[:4] for _, sums in report.groups), strict=True))) == report.total[:4]


def test_a_period_counts_the_days_that_it_touches(ledger):
    assert make_usage(ledger, "day", days(20_001, 20_001)).total.num_rows == 8
    assert make_usage(ledger, "day", days(19_000, 20_000)).total.num_rows == 3
    assert make_usage(ledger, "day", Period(20_000 * DAY_NS + 1, 20_000 * DAY_NS + 2)).total.num_rows == 3
    assert make_usage(ledger, "day", days(20_002, 20_400)).total == UsageSums()


def test_limited_groups_are_the_dearest_and_the_total_has_all(ledger):
    report = make_usage(ledger, "tenant", Period(), max_groups=1)
    assert [key for key, _ in report.groups] == ["acme"]
    assert (report.num_groups, report.total.num_rows) == (3, 11)


def test_json_has_exact_dollars_and_names_known_models(ledger):
    document = make_usage(ledger, "model", days(20_000, 20_001), "acme").as_json({ENGINE: "Qwen/Qwen3-32B"})
    assert document == {
        "tenant": "acme",
        "currency": "USD",
        "by": "model",
        "since": "2024-10-04",
        "until": "2024-10-05",
        "data": [
            {
                "model": "Qwen/Qwen3-32B",
                "engine_hash": ENGINE,
                "num_rows": 5,
                "num_refused": None,
                "num_prompt_tokens": 500,
                "num_completion_tokens": 50,
                "cost_nano_usd": 2**40 + 8,
                "cost_usd": "1099.511627784",
            },
            {
                "model": None,
                "engine_hash": OTHER_ENGINE,
                "num_rows": 1,
                "num_refused": None,
                "num_prompt_tokens": 100,
                "num_completion_tokens": 10,
                "cost_nano_usd": 1,
                "cost_usd": "0.000000001",
            },
        ],
        "totals": {
            "num_rows": 6,
            "num_refused": 6,
            "num_prompt_tokens": 600,
            "num_completion_tokens": 60,
            "cost_nano_usd": 2**40 + 9,
            "cost_usd": "1099.511627785",
        },
        "num_groups": 2,
    }


def test_an_unbounded_period_has_no_days(ledger):
    document = make_usage(ledger, "day", Period()).as_json({})
    assert (document["since"], document["until"]) == (None, None)
    assert [row["day"] for row in document["data"]] == ["2024-10-04", "2024-10-05"]
