"""The options of `llmstack serve`: each has a flag, most an environment variable for containers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmstack.server.command import ENGINES

EngineName = Enum("EngineName", {name: name for name in ENGINES}, type=str)  # type: ignore[misc]

ReleaseDir = Annotated[Path, typer.Option("--release", envvar="LLMSTACK_RELEASE_DIR", help="The release to serve.")]
EngineChoice = Annotated[
    EngineName | None,
    typer.Option(
        envvar="LLMSTACK_ENGINE",
        help="embedded: PyTorch, with or without a GPU. echo: answers at once with fixed tokens, to measure all the "
        "rest. tensorrtllm: NVIDIA's engine, in its image. Without it: what the release holds.",
        show_default=False,
    ),
]
StateDir = Annotated[
    Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="Where logs, the ledger and caches live; made when missing.")
]
ModelRepository = Annotated[
    Path, typer.Option(envvar="LLMSTACK_MODEL_REPOSITORY", help="The models that Triton loads.")
]
Host = Annotated[
    str, typer.Option(envvar="LLMSTACK_HOST", help="The address to listen on; 0.0.0.0 is every interface.")
]
_PORT_HELP = "0 picks a free port."
_READY_HELP = "Where /readyz and /livez answer; 0 picks a free port."
_METRICS_HELP = "Triton's metrics and the policy's on one page; 0 picks a free port."
HttpPort = Annotated[int, typer.Option(envvar="LLMSTACK_HTTP_PORT", min=0, max=65535, help=_PORT_HELP)]
GrpcPort = Annotated[int, typer.Option(envvar="LLMSTACK_GRPC_PORT", min=0, max=65535, help=_PORT_HELP)]
MetricsPort = Annotated[int, typer.Option(envvar="LLMSTACK_METRICS_PORT", min=0, max=65535, help=_METRICS_HELP)]
ReadyPort = Annotated[int, typer.Option(envvar="LLMSTACK_READY_PORT", min=0, max=65535, help=_READY_HELP)]
CanaryIntervalS = Annotated[
    float,
    typer.Option(
        "--canary-interval-secs",
        envvar="LLMSTACK_CANARY_INTERVAL_S",
        min=0.1,
        max=30,
        help="How often a real guided request proves the ensemble.",
    ),
]
TraceUrl = Annotated[
    str | None,
    typer.Option(
        "--trace",
        envvar="LLMSTACK_TRACE_URL",
        metavar="URL",
        help="Send OpenTelemetry spans of the ensemble and its steps to this collector, as OTLP over HTTP: "
        "http://collector:4318/v1/traces. A request's traceparent header goes on in them.",
        show_default=False,
    ),
]
TraceRate = Annotated[
    int, typer.Option(envvar="LLMSTACK_TRACE_RATE", min=1, help="With --trace: trace one of so many requests.")
]
MaxLogMib = Annotated[
    int,
    typer.Option(envvar="LLMSTACK_MAX_LOG_MIB", min=1, help="Length at which the server's log is cut; three are kept."),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="LLMSTACK_ADMIN_KEY_FILE",
        help="A file with the key that opens Triton's administrative APIs (header x-llmstack-admin-key). Without it "
        "they are closed. tritonserver takes the key as an argument: users of this machine can see it in ps.",
        show_default=False,
    ),
]
DrainDelayS = Annotated[
    float,
    typer.Option(
        "--drain-delay-secs",
        envvar="LLMSTACK_DRAIN_DELAY_S",
        min=0,
        help="How long new requests are still served after /readyz said no: balancers have to see that first.",
    ),
]
ExitTimeoutS = Annotated[
    int,
    typer.Option(
        "--exit-timeout-secs",
        envvar="LLMSTACK_EXIT_TIMEOUT_S",
        min=0,
        help="How long requests under way may take at the end.",
    ),
]
StartTimeoutS = Annotated[
    float,
    typer.Option(
        "--start-timeout-secs",
        envvar="LLMSTACK_START_TIMEOUT_S",
        min=1,
        help="How long loading the models may take.",
    ),
]
LogVerbose = Annotated[int, typer.Option(min=0, help="Triton's own verbosity; 1 logs every request.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the server's log here too.")]
ExamineFirst = Annotated[
    bool,
    typer.Option("--examine", help="First print what llmstack doctor finds, and end there when it is a failure."),
]
