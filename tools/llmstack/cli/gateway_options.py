"""What `llmstack gateway render` may be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Backends = Annotated[
    list[str],
    typer.Option(help="A server: host:http:grpc[:ready]. Give one for each.", show_default=False),
]
Certificate = Annotated[
    str,
    typer.Option(help="PEM file with certificate and key (or a directory of them), as HAProxy's machine sees it."),
]
Output = Annotated[Path, typer.Option(help="Where the configuration goes; the guard, grpc_guard.lua, goes beside it.")]
Guard = Annotated[
    str | None,
    typer.Option(help="grpc_guard.lua, as HAProxy's machine sees it.", show_default="beside the output, as it is here"),
]
Host = Annotated[str, typer.Option(help="The address to listen on; * is every one.")]
HttpPort = Annotated[int, typer.Option(min=1, max=65535, help="HTTPS, HTTP/1.1 and HTTP/2.")]
GrpcPort = Annotated[int, typer.Option(min=1, max=65535, help="gRPC over TLS.")]
MetricsAddress = Annotated[str, typer.Option(help="host:port of HAProxy's own metrics. Not for clients.")]
ReadyPath = Annotated[str, typer.Option(help="What a health check asks a server's ready port for.")]
MaxRequestBytes = Annotated[int, typer.Option(min=1024, max=2**28 - 1, help="Largest body, and largest gRPC message.")]
MaxConnections = Annotated[int, typer.Option(min=1, help="Of all clients together.")]
MaxClientConnections = Annotated[int, typer.Option(min=1, help="Of one client address.")]
MaxClientRequestsPer10S = Annotated[
    int, typer.Option("--max-client-requests-per-10-s", min=1, help="Of one client address.")
]
MaxHeaderS = Annotated[
    int, typer.Option(min=1, help="How long a request's head, and a TLS handshake over gRPC, may take.")
]
MaxBodyS = Annotated[
    int, typer.Option(min=1, help="How long a body, or a gRPC message, may take; a TLS handshake over HTTPS too.")
]
MaxAnswerS = Annotated[
    int,
    typer.Option(
        min=1,
        help="How long an answer may take, and requests under way at a soft stop: "
        "the release's max_tokens by the engine's tokens a second.",
    ),
]
MaxStreamIdleS = Annotated[int, typer.Option(min=1, help="How long neither side of a gRPC stream may say anything.")]
AllowMetadata = Annotated[
    bool,
    typer.Option("--allow-metadata", help="Let clients ask for the ensemble's tensors, as perf_analyzer does."),
]
AcceptProxy = Annotated[
    bool,
    typer.Option(
        "--accept-proxy",
        help="Take a client's address from the PROXY protocol, and no connection without it. "
        "Only behind a balancer, where nobody else reaches the gateway.",
    ),
]
Validate = Annotated[
    bool | None,
    typer.Option(
        "--validate/--no-validate",
        help="Have `haproxy -c` check the configuration before it takes its place.",
        show_default="where haproxy and the certificate are here",
    ),
]
