"""Compares the alerts that webhooks received with the flags that clients saw and with the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_policy.ledger.outbox import FINANCE, READINESS
from llmstack.events.endpoint import secret_variable, url_variable
from tests.integration.live_service import LiveService
from tests.integration.load import Load, SentRequest
from tests.webhook_receiver import WebhookReceiver, write_secrets

Receivers = Mapping[str, WebhookReceiver]


def webhook_environment(directory: Path, receivers: Receivers) -> dict[str, str]:
    """The environment variables that make a service deliver to `receivers`."""
    environment = {}
    for name, receiver in receivers.items():
        environment[url_variable(name)] = receiver.url
        environment[secret_variable(name)] = str(write_secrets(directory / f"{name}.secret", receiver.secret))
    return environment


def are_all_events_delivered(live: LiveService) -> bool:
    """Whether no alert window is open and every delivery is done."""
    open_windows = "SELECT count(*) FROM alert_window"
    pending = "SELECT count(*) FROM delivery WHERE state <> 'delivered'"
    return live.rows(open_windows) == live.rows(pending) == [(0,)]


def check_cost_breaches(live: LiveService, load: Load, receivers: Receivers) -> None:
    """Check that finance received exactly the requests with a cost breach, each once, and that all counts agree."""
    readiness, finance = (unique_event_data(receivers[name]) for name in (READINESS, FINANCE))
    flagged = {sent.request_id for sent in load.answered if "cost_breach" in sent.reply.outputs["flags"]}
    listed = Counter(request["request_id"] for event in finance for request in event.get("requests", []))
    in_ledger = {
        request_id for (request_id,) in live.rows("SELECT request_id FROM request WHERE flags LIKE '%cost_breach%'")
    }
    assert flagged
    assert flagged == {sent.request_id for sent in load.answered if sent.is_costly}
    assert set(listed.values()) == {1}
    assert flagged <= set(listed)
    assert set(listed) == in_ledger
    assert set(listed) <= {sent.request_id for sent in load.sent if sent.is_costly}
    assert sum_breaches(readiness, "cost") == sum_breaches(finance, "cost") == len(listed)


def unique_event_data(receiver: WebhookReceiver) -> list[dict[str, Any]]:
    """The data of each event received; repeated deliveries must be identical."""
    assert receiver.invalid_signatures == []
    bodies = {each.id: each.body for each in receiver.received}
    assert all(bodies[each.id] == each.body for each in receiver.received)
    return [json.loads(body)["data"] for body in bodies.values()]


def sum_breaches(events: list[dict[str, Any]], rule: str) -> int:
    return sum(event["count"] for event in events if event["rule"] == rule)


def check_ledger(live: LiveService, load: Load) -> None:
    """Check that the ledger of a stopped service is consistent and agrees with every reply."""
    verified = live.llmstack("ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    rows = {
        request_id: (state, cost)
        for request_id, state, cost in live.rows(
            "SELECT request_id, state, actual_nano_usd FROM request WHERE request_id <> ''"
        )
    }
    assert all(rows[sent.request_id] == ("settled", nano_usd(sent)) for sent in load.answered)


def nano_usd(sent: SentRequest) -> int:
    return round(sent.reply.outputs["cost_usd"][0] * 1e9)
