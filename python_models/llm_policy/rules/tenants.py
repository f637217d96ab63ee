"""Who a request is from: the tenant of its API key, and what this tenant may ask for.

Without a key, `X-Tenant` is a label that nobody vouches for. The name of a registered tenant is no such label: its
requests need its key, also where keys are not required.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from llm_policy.errors import Code, InvalidRequest
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.tenant import Tenant, TenantLimits
from llm_policy.rules.headers import API_KEY, AUTHORIZATION, TENANT, GivenKey

KEY_FORM = f"{AUTHORIZATION}: Bearer lsk_... or {API_KEY}"
_NO_LIMITS = TenantLimits()


class TenantDirectory(Protocol):
    """The part of the ledger that knows tenants."""

    def find_tenant(self, key_digest: bytes) -> Tenant | None:
        """The tenant of a valid key."""

    def is_registered(self, tenant: str) -> bool:
        """Whether this name needs a key."""


class Identity(NamedTuple):
    """The sender of a request and the limits that hold for it; with an `error`, nobody vouches for the sender."""

    sender: RowRecord
    limits: TenantLimits = _NO_LIMITS
    error: InvalidRequest | None = None

    def check_task(self, task: str | None) -> None:
        """Raises InvalidRequest (`tenant_forbidden`) if the tenant may not send this task."""
        allowed = self.limits.tasks
        if allowed is not None and task not in allowed:
            given = f"task {task}" if task else "a request without a task"
            raise self._forbidden(given, "tasks", allowed)

    def check_schema(self, name: str) -> None:
        """Raises InvalidRequest (`tenant_forbidden`) if the tenant may not use this registered schema."""
        allowed = self.limits.schemas
        if allowed is not None and name not in allowed:
            raise self._forbidden(f"schema {name}", "schemas", allowed)

    def _forbidden(self, given: str, what: str, allowed: tuple[str, ...]) -> InvalidRequest:
        names = ", ".join(allowed) or "none"
        return InvalidRequest(
            Code.TENANT_FORBIDDEN, f"tenant {self.sender.tenant} may not send {given} (allowed {what}: {names})"
        )


class TenantGate:
    """Finds the tenant of each request."""

    def __init__(self, *, requires_key: bool) -> None:
        self._requires_key = requires_key

    def identify(self, sender: RowRecord, keys: tuple[GivenKey, ...], directory: TenantDirectory) -> Identity:
        """The identity behind `keys`; `sender.tenant` is what the header claims."""
        given = [(key.header, key.digest) for key in keys if key.digest is not None]
        if not given:
            return self._without_key(sender, keys, directory)
        if len(given) > 1:
            return _unknown(sender, Code.INVALID_API_KEY, f"{len(given)} API keys were given, limit 1 ({KEY_FORM})")
        ((header, digest),) = given
        tenant = directory.find_tenant(digest)
        if tenant is None:
            return _unknown(
                sender, Code.INVALID_API_KEY, f"{header} holds no valid key: unknown, rotated out or revoked"
            )
        named = sender._replace(tenant=tenant.name, is_authenticated=True)
        if sender.tenant and sender.tenant != tenant.name:
            return Identity(
                named,
                tenant.limits,
                InvalidRequest(
                    Code.TENANT_FORBIDDEN, f"{TENANT} is {sender.tenant}, but the API key is one of {tenant.name}"
                ),
            )
        return Identity(named, tenant.limits)

    def _without_key(self, sender: RowRecord, keys: tuple[GivenKey, ...], directory: TenantDirectory) -> Identity:
        """Another system's credentials are ignored, unless a key is required and they stand in its place."""
        if self._requires_key and keys:
            return _unknown(sender, Code.INVALID_API_KEY, f"{keys[0].header} holds no API key ({KEY_FORM})")
        if self._requires_key:
            return _unknown(sender, Code.MISSING_API_KEY, f"an API key is required ({KEY_FORM}), none was given")
        if sender.tenant and directory.is_registered(sender.tenant):
            return _unknown(
                sender, Code.MISSING_API_KEY, f"tenant {sender.tenant} needs its API key ({KEY_FORM}), none was given"
            )
        return Identity(sender)


def _unknown(sender: RowRecord, code: Code, detail: str) -> Identity:
    """The claimed tenant is not recorded: it may be another's."""
    return Identity(sender._replace(tenant=""), _NO_LIMITS, InvalidRequest(code, detail))
