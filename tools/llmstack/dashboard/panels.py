"""What the dashboard shows: titles, units and Prometheus expressions, without a word of Grafana."""

from __future__ import annotations

from typing import NamedTuple

QUEUE_DELAY_LIMIT_US = 2_500
_RATE = "$__rate_interval"


class Query(NamedTuple):
    """One line of a panel; `legend` names it, with labels in braces."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """One panel; `limit` is drawn as a line where values above it are bad. A single figure where `is_stat`."""

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
        Panel("Ready", "bool_yes_no", (Query("llm_ready", "{{instance}}"),), "What /readyz says.", is_stat=True),
        Panel(
            "Requests",
            "reqps",
            (_rate("llm_requests_total", "outcome"),),
            "Rows by what became of them.",
        ),
        Panel(
            "Events that wait for a webhook",
            "short",
            (
                Query("llm_delivery_backlog", "{{endpoint}}"),
                Query("llm_delivery_failed", "{{endpoint}} given up"),
                Query("llm_delivery_disabled", "{{endpoint}} disabled"),
            ),
        ),
    ),
    "Engine": (
        Panel(
            "Queue delay",
            "µs",
            _quantiles("llm_queue_delay_us"),
            "The wait for a place in the batch; the manifest's default threshold is the line.",
            QUEUE_DELAY_LIMIT_US,
        ),
        Panel("Time to first token", "µs", _quantiles("llm_time_to_first_token_us")),
        Panel("Time per output token", "µs", _quantiles("llm_time_per_output_token_us")),
    ),
    "Tokens and money": (
        Panel(
            "Tokens",
            "short",
            (
                Query(f"sum(rate(llm_tokens_in_total[{_RATE}]))", "in, a second"),
                Query(f"sum(rate(llm_tokens_out_total[{_RATE}]))", "out, a second"),
            ),
        ),
        Panel("Cost an hour", "currencyUSD", (Query("sum(increase(llm_cost_usd_total[1h]))", "the last hour"),)),
        Panel(
            "Cost of the last day", "currencyUSD", (Query("sum(increase(llm_cost_usd_total[24h]))", ""),), is_stat=True
        ),
    ),
    "Policy": (
        Panel("Refusals", "reqps", (_rate("llm_requests_rejected_total", "code"),), "By the code of the refusal."),
        Panel("Breaches", "short", (Query(f"sum by (rule) (increase(llm_alerts_total[{_RATE}]))", "{{rule}}"),)),
        Panel(
            "Answers not of their schema",
            "short",
            (Query(f"sum(increase(llm_schema_violations_total[{_RATE}]))", "violations"),),
        ),
        Panel("What a step takes", "µs", _quantiles("llm_policy_overhead_us", "step")[1:2]),
        Panel("Guides looked up", "ops", (_rate("llm_guide_cache_total", "result"),), "By where the verdict was."),
        Panel("Compiling a guide", "ms", _quantiles("llm_guide_compile_ms")),
    ),
    "Gateway": (
        Panel(
            "Servers that the gateway finds ready",
            "short",
            (Query('haproxy_backend_active_servers{proxy="triton_http"}', "{{instance}}"),),
            is_stat=True,
        ),
        Panel(
            "Answers at the gateway",
            "reqps",
            (
                Query(
                    'sum by (proxy, code) (rate(haproxy_frontend_http_responses_total{proxy=~"http|grpc"}'
                    f"[{_RATE}]))",
                    "{{proxy}} {{code}}",
                ),
            ),
            "By protocol and class of status; gRPC has its own status in the log.",
        ),
        Panel(
            "Refused at the gateway",
            "reqps",
            (
                _rate("haproxy_frontend_requests_denied_total", "proxy", '{proxy=~"http|grpc"}'),
                _rate("haproxy_frontend_request_errors_total", "proxy", '{proxy=~"http|grpc"}'),
                _rate("haproxy_frontend_denied_connections_total", "proxy", '{proxy=~"http|grpc_tls"}'),
            ),
            "Requests by a rule, requests by the guard or as broken, and connections too many of one client.",
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
                Query("nv_gpu_memory_total_bytes", "of {{gpu_uuid}}"),
            ),
            "Only where Triton sees a GPU.",
        ),
    ),
}


def expressions() -> list[str]:
    """Every expression of the dashboard."""
    return [query.expression for row in ROWS.values() for panel in row for query in panel.queries]
