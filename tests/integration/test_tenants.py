"""A tenant's life on a live server: key, limits, usage, rotation and revocation. Attacks: `test_api_keys.py`."""

import json
import uuid
from typing import Any

import pytest

from llmstack.client.ensemble_client import ServerUrls
from llmstack.client.stream_client import send_stream
from tests.integration.live_service import LiveService

pytestmark = pytest.mark.server


def tenant(service: LiveService, command: str, name: str, *options: str) -> dict[str, Any]:
    done = service.llmstack("tenant", command, name, *options, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def create(service: LiveService, *options: str) -> tuple[str, dict[str, str]]:
    """A new tenant's name and the headers of its requests."""
    name = f"tenant-{uuid.uuid4().hex[:8]}"
    return name, {"Authorization": f"Bearer {tenant(service, 'create', name, *options)['new_key']['key']}"}


def test_a_key_names_the_tenant_until_it_is_revoked(echo_service):
    name, headers = create(echo_service)
    assert echo_service.send_request(headers=headers).status == 200
    urls = ServerUrls(echo_service.http_url, echo_service.grpc_url)
    inputs = {"text_input": "hello", "max_tokens": 4}
    reply = send_stream(urls, inputs, {**echo_service.headers, **headers})
    assert reply.error == ""
    rotated = tenant(echo_service, "rotate", name)["new_key"]["key"]
    for valid in (headers, {"X-Api-Key": rotated}):
        assert echo_service.send_request(headers=valid).status == 200
    tenant(echo_service, "revoke", name)
    for revoked in (headers, {"X-Api-Key": rotated}):
        assert echo_service.send_request(headers=revoked).code == "invalid_api_key"
    assert echo_service.send_request(headers={"X-Tenant": name}).code == "missing_api_key"
    states = echo_service.rows("SELECT state, count(*) FROM request WHERE tenant = ? GROUP BY 1", name)
    assert states == [("settled", 4)]
    usage = echo_service.llmstack("usage", "--tenant", name, "--json")
    assert json.loads(usage.stdout)["totals"]["num_rows"] == 4, usage.stdout


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        (("--max-requests-per-minute", "2"), "rate_limited"),
        (("--max-tokens-per-minute", "30"), "rate_limited"),
        (("--max-usd-per-day", "0.000002"), "tenant_budget_overrun"),
        (("--max-usd-per-month", "0.000002"), "tenant_budget_overrun"),
        (("--task", "judge"), "tenant_forbidden"),
    ],
)
def test_a_limit_holds_for_the_next_request(echo_service, limit, code):
    _, headers = create(echo_service, *limit)
    replies = [echo_service.send_request(headers=headers, text_input="what does it cost") for _ in range(6)]
    assert replies[-1].code == code, replies[-1]
    assert {reply.code for reply in replies} <= {"", code}
