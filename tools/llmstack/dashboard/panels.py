"""The panels of the dashboard: titles, units and Prometheus expressions, independent of Grafana."""

from __future__ import annotations

from typing import NamedTuple

QUEUE_DELAY_LIMIT_US = 2_500
BUDGET_WARNING_PERCENT = 80
_RATE = "$__rate_interval"


class Query(NamedTuple):
    """One line of a panel; `legend` is its name, with labels in double braces."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """One panel: a time series, or a single value when `is_stat`. `limit` is a line above which values are bad."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""
    limit: float | None = None
    is_stat: bool = False


def _quantiles(metric: str, by: str = "") -> tuple[Query, ...]:
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket[{_RATE}])))",
            f"p{round(quantile * 100)}{legend}",
        )
        for quantile in (0.5, 0.95, 0.99)
    )


def _rate(metric: str, by: str, selector: str = "") -> Query:
    return Query(f"sum by ({by}) (rate({metric}{selector}[{_RATE}]))", f"{{{{{by}}}}}")


ROWS: dict[str, tuple[Panel, ...]] = {
    "Service": (
        Panel("Ready", "bool_yes_no", (Query("llm_ready", "{{instance}}"),), "The answer of /readyz.", is_stat=True),
        Panel("Requests", "reqps", (_rate("llm_requests_total", "outcome"),), "Rows by outcome."),
        Panel(
            "Undelivered events",
            "short",
            (
                Query("llm_delivery_backlog", "{{endpoint}} pending"),
                Query("llm_delivery_failed", "{{endpoint}} failed"),
                Query("llm_delivery_disabled", "{{endpoint}} disabled"),
            ),
        ),
    ),
    "Engine": (
        Panel(
            "Queue delay",
            "µs",
            _quantiles("llm_queue_delay_us"),
            "Wait for a slot in the batch. The line is the manifest's default threshold.",
            QUEUE_DELAY_LIMIT_US,
        ),
        Panel("Time to first token", "µs", _quantiles("llm_time_to_first_token_us")),
        Panel("Time per output token", "µs", _quantiles("llm_time_per_output_token_us")),
        Panel("Inter-token latency of streams", "µs", _quantiles("llm_inter_token_latency_us")),
    ),
    "Tokens and cost": (
        Panel(
            "Tokens",
            "short",
            (
                Query(f"sum(rate(llm_tokens_in_total[{_RATE}]))", "in per second"),
                Query(f"sum(rate(llm_tokens_out_total[{_RATE}]))", "out per second"),
            ),
        ),
        Panel("Cost per hour", "currencyUSD", (Query("sum(increase(llm_cost_usd_total[1h]))", "last hour"),)),
        Panel(
            "Cost of the last 24 hours",
            "currencyUSD",
            (Query("sum(increase(llm_cost_usd_total[24h]))", ""),),
            is_stat=True,
        ),
    ),
    "Tenants": (
        Panel(
            "Cost per hour by tenant",
            "currencyUSD",
            (Query("sum by (tenant) (increase(llm_tenant_cost_usd_total[1h]))", "{{tenant}}"),),
            "Of the tenants named by --metric-tenant; all others are one line.",
        ),
        Panel(
            "Tokens by tenant",
            "short",
            (
                Query(
                    f"sum by (tenant, direction) (rate(llm_tenant_tokens_total[{_RATE}]))",
                    "{{tenant}} {{direction}} per second",
                ),
            ),
        ),
        Panel(
            "Refused by tenant",
            "reqps",
            (_rate("llm_tenant_requests_total", "tenant", '{outcome="refused"}'),),
            "Rows that are refused, for any reason; the codes are in the row Policy.",
        ),
        Panel(
            "Budget used by tenant",
            "percent",
            (
                Query(
                    "100 * (llm_tenant_budget_spent_usd + llm_tenant_budget_reserved_usd)"
                    " / (llm_tenant_budget_usd > 0)",
                    "{{tenant}} {{budget}}",
                ),
            ),
            "Spent and reserved in the current UTC day and month. The line is where the alert is.",
            BUDGET_WARNING_PERCENT,
        ),
    ),
    "Policy": (
        Panel("Rejected requests", "reqps", (_rate("llm_requests_rejected_total", "code"),), "By error code."),
        Panel("Breaches", "short", (Query(f"sum by (rule) (increase(llm_alerts_total[{_RATE}]))", "{{rule}}"),)),
        Panel(
            "Schema violations",
            "short",
            (Query(f"sum(increase(llm_schema_violations_total[{_RATE}]))", "violations"),),
        ),
        Panel("Policy overhead per step", "µs", _quantiles("llm_policy_overhead_us", "step")[1:2]),
        Panel(
            "Guide cache lookups", "ops", (_rate("llm_guide_cache_total", "result"),), "By where the guide was found."
        ),
        Panel("Guide compile time", "ms", _quantiles("llm_guide_compile_ms")),
        Panel("Slowest token mask of new guides", "ms", _quantiles("llm_guide_mask_ms")),
    ),
    "Gateway": (
        Panel(
            "Servers ready at the gateway",
            "short",
            (Query('haproxy_backend_active_servers{proxy="triton_http"}', "{{instance}}"),),
            is_stat=True,
        ),
        Panel(
            "Responses of the gateway",
            "reqps",
            (
                Query(
                    'sum by (proxy, code) (rate(haproxy_frontend_http_responses_total{proxy=~"http|grpc"}'
                    f"[{_RATE}]))",
                    "{{proxy}} {{code}}",
                ),
            ),
            "By protocol and status class. The gRPC status is in the log.",
        ),
        Panel(
            "Rejected by the gateway",
            "reqps",
            (
                _rate("haproxy_frontend_requests_denied_total", "proxy", '{proxy=~"http|grpc"}'),
                _rate("haproxy_frontend_request_errors_total", "proxy", '{proxy=~"http|grpc"}'),
                _rate("haproxy_frontend_denied_connections_total", "proxy", '{proxy=~"http|grpc_tls"}'),
            ),
            "Requests denied by a rule, rejected by the guard or malformed; connections beyond a client's limit.",
        ),
    ),
    # The API's processes export no metrics; what they add to a request is in the gateway's.
    "OpenAI API": (
        Panel(
            "Responses of the OpenAI API",
            "reqps",
            (_rate("haproxy_backend_http_responses_total", "code", '{proxy="openai"}'),),
            "By status class, with bodies that the guard rejects; what else the gateway rejects is above.",
        ),
        Panel(
            "Requests in flight to the OpenAI API",
            "short",
            (Query('sum(haproxy_backend_current_sessions{proxy="openai"})', "requests"),),
            "An open stream is one.",
        ),
        Panel(
            "Time of the OpenAI API",
            "s",
            (
                Query('haproxy_backend_response_time_average_seconds{proxy="openai"}', "first byte {{instance}}"),
                Query('haproxy_backend_total_time_average_seconds{proxy="openai"}', "whole answer {{instance}}"),
            ),
            "Averages of the last 1,024 requests, as HAProxy counts them.",
        ),
    ),
    "Triton": (
        Panel("Requests by model", "reqps", (_rate("nv_inference_request_success", "model"),)),
        Panel("Failures by model", "reqps", (_rate("nv_inference_request_failure", "model"),)),
        Panel(
            "GPU memory",
            "bytes",
            (
                Query("nv_gpu_memory_used_bytes", "used {{gpu_uuid}}"),
                Query("nv_gpu_memory_total_bytes", "total {{gpu_uuid}}"),
            ),
            "Only if Triton has a GPU.",
        ),
    ),
}


def expressions() -> list[str]:
    """The expressions of all panels."""
    return [query.expression for row in ROWS.values() for panel in row for query in panel.queries]
