"""`llmstack gateway`: renders the gateway's configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer
from rich.console import Console

from llmstack.cli import gateway_options as options
from llmstack.cli.command_group import CommandGroup
from llmstack.cli.terminal import fail
from llmstack.gateway.configuration import Limits

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="The gateway: HAProxy in front of the servers. It exposes the ensemble and nothing else."
    "\n\nExample: llmstack gateway render --help",
)

_LIMITS = Limits()


@app.callback()
def gateway() -> None:
    """Typer makes a single command the app itself; a callback keeps `render` a subcommand."""


@app.command()
def render(
    backend: options.Backends,
    certificate: options.Certificate,
    output: options.Output,
    guard: options.Guard = None,
    host: options.Host = "*",
    http_port: options.HttpPort = 8443,
    grpc_port: options.GrpcPort = 8444,
    metrics_address: options.MetricsAddress = "127.0.0.1:8405",
    ready_path: options.ReadyPath = "/readyz",
    max_request_bytes: options.MaxRequestBytes = _LIMITS.max_request_bytes,
    max_connections: options.MaxConnections = _LIMITS.max_connections,
    max_client_connections: options.MaxClientConnections = _LIMITS.max_client_connections,
    max_client_requests_per_10_s: options.MaxClientRequestsPer10S = _LIMITS.max_client_requests_per_10_s,
    max_client_in_flight: options.MaxClientInFlight = _LIMITS.max_client_in_flight,
    abandoned_s: options.AbandonedS = _LIMITS.abandoned_s,
    max_header_s: options.MaxHeaderS = _LIMITS.max_header_s,
    max_body_s: options.MaxBodyS = _LIMITS.max_body_s,
    max_answer_s: options.MaxAnswerS = _LIMITS.max_answer_s,
    max_stream_idle_s: options.MaxStreamIdleS = _LIMITS.max_stream_idle_s,
    allow_metadata: options.AllowMetadata = False,
    accept_proxy: options.AcceptProxy = False,
    require_api_keys: options.RequireApiKeys = False,
    grpc: options.ExposesGrpc = True,
    openai: options.ExposesOpenAI = True,
    openai_server: options.OpenAIServers = None,
    validate: options.Validate = None,
) -> None:
    """Write HAProxy's configuration for these servers.

    Start HAProxy with `haproxy -W -f FILE`. To change the servers, render again and send SIGUSR2. SIGUSR1 stops it
    after the requests in flight are answered.

    Example: llmstack gateway render --backend triton-1:8000:8001 --backend triton-2:8000:8001 \
--certificate /etc/haproxy/gateway.pem --output /etc/haproxy/haproxy.cfg
    """
    from llmstack.gateway.backend import BackendError, parse_address, parse_backend
    from llmstack.gateway.configuration import (
        GUARD_FILE,
        GatewayConfiguration,
        GatewayError,
        haproxy_errors,
        write_configuration,
    )

    limits = Limits(
        max_request_bytes=max_request_bytes,
        max_connections=max_connections,
        max_client_connections=max_client_connections,
        max_client_requests_per_10_s=max_client_requests_per_10_s,
        max_client_in_flight=max_client_in_flight,
        abandoned_s=abandoned_s,
        max_header_s=max_header_s,
        max_body_s=max_body_s,
        max_answer_s=max_answer_s,
        max_stream_idle_s=max_stream_idle_s,
    )
    if validate is None:
        validate = shutil.which("haproxy") is not None and Path(certificate).exists()
    try:
        configuration = GatewayConfiguration(
            backends=[parse_backend(text) for text in backend],
            certificate=certificate,
            guard=guard or str(output.resolve().with_name(GUARD_FILE)),
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_address=metrics_address,
            ready_path=ready_path,
            limits=limits,
            allow_metadata=allow_metadata,
            accept_proxy=accept_proxy,
            exposes_grpc=grpc,
            exposes_openai=openai,
            openai_servers=[parse_address(text) for text in openai_server or ()],
            requires_api_keys=require_api_keys,
        )
        guard_path = write_configuration(configuration, output, haproxy_errors if validate else None)
    except (BackendError, GatewayError) as error:
        fail(error, "see llmstack gateway render --help; haproxy -c also reads the certificate")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "give an --output in a directory that you may write to")
    checked = "haproxy -c found no errors" if validate else "not checked by haproxy -c"
    Console(soft_wrap=True, highlight=False).print(f"wrote {output} and {guard_path}; {checked}", markup=False)
