"""The tenants that have metrics of their own, as an operator names them."""

from __future__ import annotations

from collections.abc import Iterable

from llm_policy.metrics.tenant_metrics import OTHER
from llm_policy.rules.headers import MAX_HEADER_CHARS
from llmstack.server.error import ServerStartError

MAX_TENANTS = 100


def parse_metric_tenants(values: Iterable[str]) -> tuple[str, ...]:
    """The names in `values`, each once and in order; a value may hold several, separated by commas.

    Raises:
        ServerStartError: a name can't be a tenant's, or there are more than `MAX_TENANTS`.
    """
    names = tuple(dict.fromkeys(name.strip() for value in values for name in value.split(",") if name.strip()))
    for name in names:
        if name == OTHER or len(name) > MAX_HEADER_CHARS or not name.isprintable():
            raise ServerStartError(
                f"--metric-tenant {name!r} can't be a tenant with metrics of its own",
                f"name a tenant of `llmstack tenant list`; {OTHER!r} is the label of all that are not named",
            )
    if len(names) > MAX_TENANTS:
        raise ServerStartError(
            f"--metric-tenant names {len(names)} tenants, limit {MAX_TENANTS}",
            "name the largest; `llmstack usage` and the board show all",
        )
    return names
