"""Runs every check of a deployment."""

from __future__ import annotations

from collections.abc import Callable

from llmstack.diagnostics.api_key_check import check_api_keys
from llmstack.diagnostics.check_result import CheckResult
from llmstack.diagnostics.deployment import Deployment
from llmstack.diagnostics.engine_checks import (
    check_engine,
    check_gpu,
    check_image,
    check_memory,
    check_mounts,
    check_release,
    check_server,
)
from llmstack.diagnostics.engine_process_checks import check_engine_options, check_engine_process
from llmstack.diagnostics.host_checks import check_ports, check_shared_memory, check_state_directory, check_webhooks
from llmstack.diagnostics.triton_faults import check_triton_faults

CHECKS: tuple[Callable[[Deployment], CheckResult], ...] = (
    check_image,
    check_engine,
    check_engine_process,
    check_server,
    check_triton_faults,
    check_gpu,
    check_engine_options,
    check_memory,
    check_shared_memory,
    check_mounts,
    check_release,
    check_state_directory,
    check_webhooks,
    check_ports,
    check_api_keys,
)


def run_checks(deployment: Deployment) -> list[CheckResult]:
    """The results of all checks, in the order of `CHECKS`."""
    return [check(deployment) for check in CHECKS]
