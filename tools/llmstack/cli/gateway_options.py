"""The options of `llmstack gateway render`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Backends = Annotated[
    list[str],
    typer.Option(
        help="A server: host:http:grpc[:ready[:openai]], with 8003 and 8005 as the last two ports. "
        "Repeat the option for each server.",
        show_default=False,
    ),
]
Certificate = Annotated[
    str,
    typer.Option(help="PEM file with certificate and key, or a directory of such files, on HAProxy's machine."),
]
Output = Annotated[
    Path, typer.Option(help="The file to write. The guard, guard.lua, and its modules are written beside it.")
]
Guard = Annotated[
    str | None,
    typer.Option(
        help="Path of guard.lua on HAProxy's machine; its modules are beside it.", show_default="beside the output"
    ),
]
Host = Annotated[str, typer.Option(help="The address to listen on; * is all of them.")]
HttpPort = Annotated[int, typer.Option(min=1, max=65535, help="Port for HTTPS, HTTP/1.1 and HTTP/2.")]
GrpcPort = Annotated[int, typer.Option(min=1, max=65535, help="Port for gRPC over TLS.")]
MetricsAddress = Annotated[str, typer.Option(help="host:port of HAProxy's own metrics. Keep it internal.")]
ReadyPath = Annotated[str, typer.Option(help="Path of the health check on a server's ready port.")]
MaxRequestBytes = Annotated[int, typer.Option(min=1024, max=2**28 - 1, help="Largest body and largest gRPC message.")]
MaxConnections = Annotated[int, typer.Option(min=1, help="Connections of all clients.")]
MaxClientConnections = Annotated[int, typer.Option(min=1, help="Connections of one client address.")]
MaxClientRequestsPer10S = Annotated[
    int, typer.Option("--max-client-requests-per-10-s", min=1, help="Requests of one client address in 10 s.")
]
MaxClientInFlight = Annotated[
    int,
    typer.Option(min=1, help="Requests of one client address in flight, with those that it abandoned."),
]
AbandonedS = Annotated[
    int,
    typer.Option(
        min=1, help="How long a request whose client is gone counts as one in flight: a server may go on with it."
    ),
]
MaxHeaderS = Annotated[
    int, typer.Option(min=1, help="Time limit for a request's headers, and for a TLS handshake on the gRPC port.")
]
MaxBodyS = Annotated[
    int, typer.Option(min=1, help="Time limit for a body or a gRPC message, and for a TLS handshake on the HTTPS port.")
]
MaxAnswerS = Annotated[
    int,
    typer.Option(
        min=1,
        help="Time limit for an answer, and for requests in flight at a soft stop: "
        "the release's max_tokens divided by the engine's tokens a second.",
    ),
]
MaxStreamIdleS = Annotated[int, typer.Option(min=1, help="Time limit for a gRPC stream on which neither side sends.")]
AllowMetadata = Annotated[
    bool,
    typer.Option("--allow-metadata", help="Expose the ensemble's metadata, which perf_analyzer reads."),
]
ExposesGrpc = Annotated[
    bool,
    typer.Option(
        "--grpc/--no-grpc",
        help="Whether clients may use gRPC. A call that its client cancels can stop a server before release 25.04.",
    ),
]
ExposesOpenAI = Annotated[
    bool, typer.Option("--openai/--no-openai", help="Whether clients may use the OpenAI API, on the HTTPS port.")
]
OpenAIServers = Annotated[
    list[str] | None,
    typer.Option(
        "--openai-server",
        help="A server of the OpenAI API (`llmstack openai serve`): host:port, instead of those of the backends. "
        "Repeat the option for each server.",
        show_default="the backends",
    ),
]
RequireApiKeys = Annotated[
    bool,
    typer.Option(
        "--require-api-keys",
        help="Reject requests without something of an API key's form before a server sees them. Whether a key is valid "
        "is the servers' to decide (llmstack serve --require-api-keys).",
    ),
]
AcceptProxy = Annotated[
    bool,
    typer.Option(
        "--accept-proxy",
        help="Read a client's address from the PROXY protocol and reject connections without it. "
        "Only behind a load balancer, when nothing else can reach the gateway's ports.",
    ),
]
Validate = Annotated[
    bool | None,
    typer.Option(
        "--validate/--no-validate",
        help="Check the configuration with `haproxy -c` before it replaces the old one.",
        show_default="if haproxy and the certificate exist here",
    ),
]
