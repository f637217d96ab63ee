"""`llmstack door`: the configuration of the front door."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llmstack.door.backend import BackendError, parse_backend
from llmstack.door.configuration import GUARD, Door, DoorError, Limits, find_faults, write_door
from llmstack.terminal import fail

app = typer.Typer(
    no_args_is_help=True,
    help="The front door: HAProxy before the servers. It leads to the ensemble and to nothing else.",
)

_LIMITS = Limits()


@app.callback()
def door() -> None:
    """Keep `render` a command of its own while it is the only one."""


@app.command()
def render(
    backend: Annotated[
        list[str],
        typer.Option(help="A server: host:http:grpc[:ready]. Give one for each.", show_default=False),
    ],
    certificate: Annotated[
        str,
        typer.Option(help="PEM file with certificate and key (or a directory of them), as HAProxy's machine sees it."),
    ],
    output: Annotated[
        Path, typer.Option(help="Where the configuration goes; the guard, grpc_guard.lua, goes beside it.")
    ],
    guard: Annotated[
        str | None,
        typer.Option(
            help="grpc_guard.lua, as HAProxy's machine sees it.", show_default="beside the output, as it is here"
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; * is every one.")] = "*",
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="HTTPS, HTTP/1.1 and HTTP/2.")] = 8443,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="gRPC over TLS.")] = 8444,
    metrics_address: Annotated[
        str, typer.Option(help="host:port of HAProxy's own metrics. Not for clients.")
    ] = "127.0.0.1:8405",
    ready_path: Annotated[str, typer.Option(help="What a health check asks a server's ready port for.")] = "/readyz",
    max_request_bytes: Annotated[
        int, typer.Option(min=1024, max=2**28 - 1, help="Largest body, and largest gRPC message.")
    ] = _LIMITS.max_request_bytes,
    max_connections: Annotated[int, typer.Option(min=1, help="Of all clients together.")] = _LIMITS.max_connections,
    max_client_connections: Annotated[
        int, typer.Option(min=1, help="Of one client address.")
    ] = _LIMITS.max_client_connections,
    max_client_requests_per_10_s: Annotated[
        int, typer.Option("--max-client-requests-per-10-s", min=1, help="Of one client address.")
    ] = _LIMITS.max_client_requests_per_10_s,
    max_header_s: Annotated[
        int, typer.Option(min=1, help="How long a request's head, and a TLS handshake over gRPC, may take.")
    ] = _LIMITS.max_header_s,
    max_body_s: Annotated[
        int, typer.Option(min=1, help="How long a body, or a gRPC message, may take; a TLS handshake over HTTPS too.")
    ] = _LIMITS.max_body_s,
    max_answer_s: Annotated[
        int,
        typer.Option(
            min=1,
            help="How long an answer may take, and requests under way at a soft stop: "
            "the release's max_tokens by the engine's tokens a second.",
        ),
    ] = _LIMITS.max_answer_s,
    max_stream_idle_s: Annotated[
        int, typer.Option(min=1, help="How long neither side of a gRPC stream may say anything.")
    ] = _LIMITS.max_stream_idle_s,
    allow_metadata: Annotated[
        bool,
        typer.Option("--allow-metadata", help="Let clients ask for the ensemble's tensors, as perf_analyzer does."),
    ] = False,
    accept_proxy: Annotated[
        bool,
        typer.Option(
            "--accept-proxy",
            help="Take a client's address from the PROXY protocol, and no connection without it. "
            "Only behind a balancer, where nobody else reaches the door.",
        ),
    ] = False,
    validate: Annotated[
        bool | None,
        typer.Option(
            "--validate/--no-validate",
            help="Have `haproxy -c` check the configuration before it takes its place.",
            show_default="where haproxy and the certificate are here",
        ),
    ] = None,
) -> None:
    """Write HAProxy's configuration for these servers.

    Start it with `haproxy -W -f FILE`. Render again and send SIGUSR2 for other servers; SIGUSR1 ends it once the
    requests under way are answered.

    Example: llmstack door render --backend triton-1:8000:8001 --backend triton-2:8000:8001 \
--certificate /etc/haproxy/door.pem --output /etc/haproxy/haproxy.cfg
    """
    limits = Limits(
        max_request_bytes=max_request_bytes,
        max_connections=max_connections,
        max_client_connections=max_client_connections,
        max_client_requests_per_10_s=max_client_requests_per_10_s,
        max_header_s=max_header_s,
        max_body_s=max_body_s,
        max_answer_s=max_answer_s,
        max_stream_idle_s=max_stream_idle_s,
    )
    if validate is None:
        validate = shutil.which("haproxy") is not None and Path(certificate).exists()
    try:
        backends = [parse_backend(text) for text in backend]
        where = guard or str(output.resolve().with_name(GUARD))
        wanted = Door(
            backends,
            certificate,
            where,
            host,
            http_port,
            grpc_port,
            metrics_address,
            ready_path,
            limits,
            allow_metadata,
            accept_proxy,
        )
        written = write_door(wanted, output, find_faults if validate else None)
    except (BackendError, DoorError) as error:
        fail(error, "llmstack door render --help shows what each option takes; haproxy reads the certificate, too")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "give an --output in a directory that you may write to")
    checked = "; haproxy -c finds no fault" if validate else "; not checked by haproxy -c"
    Console(soft_wrap=True, highlight=False).print(f"wrote {output} and {written}{checked}", markup=False)
