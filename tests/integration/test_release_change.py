"""A promotion and a rollback of a live service under traffic; with the server down, only the link changes."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from llm_policy.ledger.database import open_database
from llm_policy.ledger.outbox import READINESS
from llmstack.events.endpoint import secret_variable, url_variable
from tests.integration.live_service import wait_until
from tests.integration.release_service import FIRST, SECOND, ReleaseService
from tests.integration.release_traffic import ReleaseTraffic
from tests.tenants import add_tenant
from tests.webhook_receiver import WebhookReceiver, new_secret, write_secrets

pytestmark = [pytest.mark.server, pytest.mark.slow]

OVERRIDE = ("--override", "test", "--required-sign-offs", "0")


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(new_secret()) as listening:
        yield listening


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, receiver: WebhookReceiver) -> Iterator[ReleaseService]:
    directory = tmp_path_factory.mktemp("change")
    environment = {
        url_variable(READINESS): receiver.url,
        secret_variable(READINESS): str(write_secrets(directory / "secret", receiver.secret)),
    }
    with ReleaseService(directory / "service", "echo", environment) as live:
        yield live


def received(receiver: WebhookReceiver, root_cause: str) -> list[dict]:
    """The rollback events with this root cause."""
    assert receiver.invalid_signatures == []
    events = (request.event for request in receiver.received if request.event["type"] == "llm_rollback_completed")
    return [event for event in events if event["data"]["root_cause"] == root_cause]


def test_a_release_without_evidence_is_not_promoted(service: ReleaseService) -> None:
    rejected = service.llmstack("release", "promote", SECOND)
    assert rejected.returncode == 1
    for gate in ("alignment", "warm-up", "smoke", "sign-offs"):
        assert f"✘ {gate}" in rejected.stderr
    assert (service.in_service(), service.served()) == (FIRST, FIRST)


def test_a_release_is_promoted_and_rolled_back_under_traffic(
    service: ReleaseService, receiver: WebhookReceiver
) -> None:
    with ReleaseTraffic(service) as traffic:
        traffic.wait_answered(FIRST)
        promoted = service.llmstack("release", "promote", SECOND, *OVERRIDE, "--json")
        assert promoted.returncode == 0, promoted.stderr
        told = promoted.stderr.index("no service for about"), promoted.stderr.index(f"promotion of {SECOND}: drain")
        assert told == tuple(sorted(told))
        traffic.wait_answered(SECOND)
        assert (service.in_service(), service.served()) == (SECOND, SECOND)
        rolled_back = service.llmstack("release", "rollback", "--root-cause", "it answers nonsense", "--json")
        assert rolled_back.returncode == 0, rolled_back.stderr
        assert f"rollback: {SECOND} → {FIRST}" in rolled_back.stderr
        traffic.wait_answered(FIRST)
    traffic.check()
    assert (service.in_service(), service.served(), service.is_ready()) == (FIRST, FIRST, True)
    change = json.loads(rolled_back.stdout)
    assert (change["from"], change["to"], change["outcome"]) == (SECOND, FIRST, "completed")
    history = json.loads(service.llmstack("release", "history", "--json").stdout)
    assert [(each["kind"], each["outcome"]) for each in history] == [
        ("rollback", "completed"),
        ("promotion", "completed"),
    ]
    wait_until(lambda: received(receiver, "it answers nonsense") != [])


def test_a_promotion_needs_no_key_where_its_clients_need_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = {"LLMSTACK_REQUIRE_API_KEYS": "1"}
    with ReleaseService(tmp_path_factory.mktemp("keys") / "service", "echo", environment) as live:
        with closing(open_database(live.state_dir / "ledger.db", must_exist=True)) as connection:
            key = add_tenant(connection, "acme")
        promoted = live.llmstack("release", "promote", SECOND, *OVERRIDE, "--json")
        assert promoted.returncode == 0, promoted.stderr
        assert live.served() == SECOND
        headers = live.headers_of(SECOND)
        assert live.send_request(headers={**headers, "X-Api-Key": key}).status == 200
        assert live.send_request(headers=headers).code == "missing_api_key"


@pytest.mark.slow
def test_a_rollback_works_and_is_reported_while_the_server_is_down(
    service: ReleaseService, receiver: WebhookReceiver
) -> None:
    service.kill_all()
    promoted = service.llmstack("release", "promote", SECOND, *OVERRIDE)
    assert promoted.returncode == 0
    assert f"promoted: {FIRST} → {SECOND}" in promoted.stdout
    done = service.llmstack("release", "rollback", "--root-cause", "the server is down", "--json")
    assert done.returncode == 0, done.stderr
    assert len(received(receiver, "the server is down")) == 1
    change = json.loads(done.stdout)
    assert (change["from"], change["to"], change["outcome"], change["is_served"]) == (SECOND, FIRST, "completed", False)
    assert service.in_service() == FIRST
