"""Whether strangers can send requests, and whether anybody can where API keys are required."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from llm_policy.ledger.database import FILE_NAME as LEDGER_NAME
from llm_policy.ledger.database import open_read_only
from llmstack.diagnostics.check_result import CheckResult, CheckStatus
from llmstack.diagnostics.deployment import Deployment
from llmstack.server.api_keys import is_loopback

NAME = "API keys"
_CREATE = "llmstack tenant create NAME --state-dir {}"
_NUM_VALID_KEYS = (
    "SELECT count(*) FROM tenant_key JOIN tenant ON name = tenant WHERE ends_ns IS NULL OR ends_ns > :now_ns"
)


def check_api_keys(deployment: Deployment) -> CheckResult:
    """Whether a public address requires API keys, and whether a tenant has one. Changes nothing."""
    return check_keys(deployment.requires_api_keys, deployment.host, deployment.state_dir)


def check_keys(requires_keys: bool, host: str, state_dir: Path) -> CheckResult:
    """The check of a service on `host`."""
    if not requires_keys:
        return _check_without_keys(host)
    num_keys = _num_valid_keys(state_dir / LEDGER_NAME)
    if num_keys == 0:
        text = "required, but no tenant has a valid one: every request is rejected"
        return CheckResult(NAME, CheckStatus.WARN, text, _CREATE.format(state_dir))
    return CheckResult(NAME, CheckStatus.OK, "required" if num_keys is None else f"required; valid keys: {num_keys}")


def _check_without_keys(host: str) -> CheckResult:
    if is_loopback(host):
        return CheckResult(NAME, CheckStatus.OK, f"not required: only this machine can reach {host}")
    text = (
        f"NOT REQUIRED on {host}, which other machines can reach: anybody there can send requests, at your cost and in "
        "any name that is no registered tenant's"
    )
    next_step = "serve with --require-api-keys (LLMSTACK_REQUIRE_API_KEYS=1), or on --host 127.0.0.1"
    return CheckResult(NAME, CheckStatus.WARN, text, next_step)


def _num_valid_keys(ledger: Path) -> int | None:
    """How many keys are valid now; None if the ledger can't be read."""
    if not ledger.exists():
        return 0
    try:
        with closing(open_read_only(ledger)) as connection:
            (num_keys,) = connection.execute(_NUM_VALID_KEYS, {"now_ns": time.time_ns()}).fetchone()
    except sqlite3.OperationalError as error:
        return 0 if "no such table" in str(error) else None
    except sqlite3.Error:
        return None
    return int(num_keys)
