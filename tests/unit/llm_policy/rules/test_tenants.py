"""Who a request is from, and what its tenant may ask for."""

import json

import pytest

from llm_policy.api_key import create_key
from llm_policy.errors import Code, InvalidRequest
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.tenant import Tenant, TenantLimits
from llm_policy.rules.headers import HeaderGate
from llm_policy.rules.tenants import KEY_FORM, Identity, TenantGate
from tests.manifests import ENGINE_HASH
from tests.tenants import MemoryDirectory

KEY, OTHER_KEY, UNKNOWN_KEY = create_key(), create_key(), create_key()
LIMITS = TenantLimits(max_requests_per_minute=5)
DIRECTORY = MemoryDirectory({KEY: Tenant("acme", LIMITS), OTHER_KEY: Tenant("globex", TenantLimits())})
ENGINE = {"X-Engine-Hash": ENGINE_HASH, "X-Quantisation": "w4a8"}


def identify(headers, requires_key=True):
    parameters = headers if isinstance(headers, str) else json.dumps({**ENGINE, **headers})
    check = HeaderGate(ENGINE_HASH, "w4a8").check(parameters)
    return TenantGate(requires_key=requires_key).identify(check.sender, check.keys, DIRECTORY)


@pytest.mark.parametrize("requires_key", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"X-Api-Key": KEY},
        {"x-api-key": KEY, "X-Tenant": "acme"},
        {"X-Api-Key": KEY, "Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-Api-Key": KEY},
        {"X-Api-Key": KEY, "Authorization": "Bearer of-another-system"},
    ],
)
def test_a_valid_key_names_its_tenant(headers, requires_key):
    identity = identify(headers, requires_key)
    assert identity.error is None
    assert (identity.sender.tenant, identity.sender.is_authenticated, identity.limits) == ("acme", True, LIMITS)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, Code.MISSING_API_KEY),
        ({"X-Tenant": "acme"}, Code.MISSING_API_KEY),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, Code.MISSING_API_KEY),
        ({"Authorization": KEY}, Code.MISSING_API_KEY),
        ({"Authorization": "Bearer "}, Code.INVALID_API_KEY),
        ({"Authorization": "Bearer none"}, Code.INVALID_API_KEY),
        ({"X-Api-Key": ""}, Code.INVALID_API_KEY),
        ({"X-Api-Key": 7}, Code.INVALID_API_KEY),
        ({"X-Api-Key": f"Bearer {KEY}"}, Code.INVALID_API_KEY),
        ({"X-Api-Key": UNKNOWN_KEY}, Code.INVALID_API_KEY),
        ({"X-Api-Key": KEY.upper()}, Code.INVALID_API_KEY),
        ({"X-Api-Key": KEY, "Authorization": f"Bearer {KEY}"}, Code.INVALID_API_KEY),
        ({"X-Api-Key": KEY, "Authorization": f"Bearer {OTHER_KEY}"}, Code.INVALID_API_KEY),
        ({"X-Api-Key": KEY, "x-api-key": OTHER_KEY}, Code.INVALID_API_KEY),
    ],
)
def test_where_keys_are_required_nothing_else_names_a_tenant(headers, code):
    identity = identify(headers)
    assert identity.error.code is code
    assert (identity.sender.tenant, identity.sender.is_authenticated) == ("", False)
    assert "lsk_" not in str(identity.error).replace("lsk_...", "")


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, f"an API key is required ({KEY_FORM}), none was given"),
        ({"X-Api-Key": "sk-none"}, f"X-Api-Key holds no API key ({KEY_FORM})"),
        (
            {"Authorization": f"Bearer {UNKNOWN_KEY}"},
            "Authorization holds no valid key: unknown, rotated out or revoked",
        ),
        ({"X-Api-Key": KEY, "Authorization": f"Bearer {KEY}"}, f"2 API keys were given, limit 1 ({KEY_FORM})"),
    ],
)
def test_the_error_says_what_is_wrong_with_the_key(headers, text):
    identity = identify(headers)
    assert identity.error.detail == text
    assert identity.limits == TenantLimits()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-none"}, {"X-Api-Key": "another system's"}])
def test_without_required_keys_other_credentials_are_ignored_and_the_tenant_is_a_label(headers):
    identity = identify({**headers, "X-Tenant": "somebody"}, requires_key=False)
    assert identity == Identity(RowRecord(tenant="somebody"))


def test_the_name_of_a_registered_tenant_needs_its_key_in_any_case():
    identity = identify({"X-Tenant": "acme"}, requires_key=False)
    assert (identity.error.code, identity.sender.tenant) == (Code.MISSING_API_KEY, "")
    assert identity.error.detail == f"tenant acme needs its API key ({KEY_FORM}), none was given"


def test_an_unknown_key_is_refused_where_none_is_required():
    assert identify({"X-Api-Key": UNKNOWN_KEY}, requires_key=False).error.code is Code.INVALID_API_KEY


def test_a_header_can_not_claim_another_tenant():
    identity = identify({"X-Api-Key": KEY, "X-Tenant": "globex"})
    assert str(identity.error) == "tenant_forbidden: X-Tenant is globex, but the API key is one of acme"
    assert (identity.sender.tenant, identity.limits) == ("acme", LIMITS)


@pytest.mark.parametrize("name", ["X-Tenant", "X-Request-Id", "X-Engine-Hash", "X-Quantisation", "X-Canary-Token"])
def test_a_key_in_another_header_is_refused_without_being_shown(name):
    check = HeaderGate(ENGINE_HASH, "w4a8").check(json.dumps({**ENGINE, name: KEY}))
    error = check.error()
    assert error.code is Code.INVALID_HEADER
    assert KEY not in str(error)
    assert KEY not in repr(check.sender)


@pytest.mark.parametrize(
    ("limits", "task", "is_allowed"),
    [
        (TenantLimits(), None, True),
        (TenantLimits(tasks=("judge",)), "judge", True),
        (TenantLimits(tasks=("judge",)), "generate_json", False),
        (TenantLimits(tasks=("judge",)), None, False),
        (TenantLimits(tasks=()), "judge", False),
    ],
)
def test_a_tenant_may_send_the_tasks_that_it_is_allowed(limits, task, is_allowed):
    identity = Identity(RowRecord(tenant="acme"), limits)
    if is_allowed:
        identity.check_task(task)
    else:
        with pytest.raises(InvalidRequest, match=r"tenant_forbidden: tenant acme may not send .*allowed tasks:"):
            identity.check_task(task)


@pytest.mark.parametrize(
    ("tasks", "task", "text"),
    [
        (("judge", "extract"), "write", "tenant acme may not send task write (allowed tasks: judge, extract)"),
        (("judge",), None, "tenant acme may not send a request without a task (allowed tasks: judge)"),
        ((), "judge", "tenant acme may not send task judge (allowed tasks: none)"),
    ],
)
def test_a_refused_task_is_told_with_the_allowed_ones(tasks, task, text):
    with pytest.raises(InvalidRequest) as raised:
        Identity(RowRecord(tenant="acme"), TenantLimits(tasks=tasks)).check_task(task)
    assert raised.value.detail == text


def test_a_tenant_may_use_the_registered_schemas_that_it_is_allowed():
    identity = Identity(RowRecord(tenant="acme"), TenantLimits(schemas=("order",)))
    identity.check_schema("order")
    with pytest.raises(InvalidRequest, match=r"schema verdict \(allowed schemas: order\)"):
        identity.check_schema("verdict")
