"""The options of `llmstack serve`; most also have an environment variable, for containers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmstack.server.engines import ENGINES, TENSORRT_LLM_MODES, UNARY

EngineName = Enum("EngineName", {name: name for name in ENGINES}, type=str)  # type: ignore[misc]

TensorRTLLMMode = Enum("TensorRTLLMMode", {name: name for name in TENSORRT_LLM_MODES}, type=str)  # type: ignore[misc]
UNARY_MODE = TensorRTLLMMode(UNARY)


class LogFormatName(str, Enum):
    """The forms of the log on standard output."""

    TEXT = "text"
    JSON = "json"


ReleaseDir = Annotated[Path, typer.Option("--release", envvar="LLMSTACK_RELEASE_DIR", help="The release to serve.")]
EngineChoice = Annotated[
    EngineName | None,
    typer.Option(
        envvar="LLMSTACK_ENGINE",
        help="embedded: PyTorch, with or without a GPU. vllm: vLLM. trtllm-api: TensorRT-LLM's LLM API. tensorrtllm: "
        "its C++ engine, in NVIDIA's image. echo: answers immediately with fixed tokens, to measure the rest of the "
        "stack. Default: the engine that the release holds.",
        show_default=False,
    ),
]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        envvar="LLMSTACK_ENGINE_OPTIONS",
        metavar="KEY=VALUE",
        help="An option of the engine itself, such as tensor_parallel_size=2 of vllm; may be repeated. The variable "
        "holds several, separated by spaces.",
        show_default=False,
    ),
]
TensorRTLLMModeChoice = Annotated[
    TensorRTLLMMode,
    typer.Option(
        "--tensorrtllm-mode",
        envvar="LLMSTACK_TENSORRTLLM_MODE",
        help="With --engine tensorrtllm: its backend either answers once (unary: the model ensemble) or streams "
        "(decoupled: the model ensemble_stream alone, for both kinds of request).",
    ),
]
StateDir = Annotated[
    Path,
    typer.Option(envvar="LLMSTACK_STATE_DIR", help="For logs, ledger and caches; created when missing."),
]
ModelRepository = Annotated[
    Path, typer.Option(envvar="LLMSTACK_MODEL_REPOSITORY", help="The models that Triton loads.")
]
Host = Annotated[
    str, typer.Option(envvar="LLMSTACK_HOST", help="The address to listen on; 0.0.0.0 is every interface.")
]
_PORT_HELP = "0 picks a free port."
_READY_HELP = "The port of /readyz and /livez; 0 picks a free port."
_METRICS_HELP = "Triton's metrics and the policy's on one page; 0 picks a free port."
HttpPort = Annotated[int, typer.Option(envvar="LLMSTACK_HTTP_PORT", min=0, max=65535, help=_PORT_HELP)]
GrpcPort = Annotated[int, typer.Option(envvar="LLMSTACK_GRPC_PORT", min=0, max=65535, help=_PORT_HELP)]
MetricsPort = Annotated[int, typer.Option(envvar="LLMSTACK_METRICS_PORT", min=0, max=65535, help=_METRICS_HELP)]
ReadyPort = Annotated[int, typer.Option(envvar="LLMSTACK_READY_PORT", min=0, max=65535, help=_READY_HELP)]
OpenAIPort = Annotated[
    int,
    typer.Option(
        envvar="LLMSTACK_OPENAI_PORT", min=0, max=65535, help="The port of the OpenAI API; 0 picks a free port."
    ),
]
NoOpenAI = Annotated[bool, typer.Option("--no-openai", help="Do not serve the OpenAI API.")]
CanaryIntervalS = Annotated[
    float,
    typer.Option(
        "--canary-interval-secs",
        envvar="LLMSTACK_CANARY_INTERVAL_S",
        min=0.1,
        max=30,
        help="Interval of the canaries: guided requests that check the health of the ensemble.",
    ),
]
TraceUrl = Annotated[
    str | None,
    typer.Option(
        "--trace",
        envvar="LLMSTACK_TRACE_URL",
        metavar="URL",
        help="Send OpenTelemetry spans of the ensemble and its steps to this collector, as OTLP over HTTP: "
        "http://collector:4318/v1/traces. The spans continue a request's traceparent header.",
        show_default=False,
    ),
]
TraceRate = Annotated[
    int, typer.Option(envvar="LLMSTACK_TRACE_RATE", min=1, help="With --trace: trace one request in this many.")
]
MaxLogMib = Annotated[
    int,
    typer.Option(
        envvar="LLMSTACK_MAX_LOG_MIB", min=1, help="Size at which the server's log is rotated; three are kept."
    ),
]
MaxLedgerMib = Annotated[
    int,
    typer.Option(
        envvar="LLMSTACK_MAX_LEDGER_MIB",
        min=0,
        help="Size budget of the ledger; 0 is none. Near it, the oldest rejected rows are pruned and counted, and "
        "/readyz, an event and a metric report it. No request is rejected because of it.",
    ),
]
MetricTenant = Annotated[
    list[str] | None,
    typer.Option(
        envvar="LLMSTACK_METRIC_TENANTS",
        metavar="NAME",
        help="A tenant that has metrics of its own; may be repeated, up to 100. All others together are "
        'tenant="other". The variable holds several, separated by commas.',
        show_default=False,
    ),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="LLMSTACK_ADMIN_KEY_FILE",
        help="A file with the key that opens Triton's administrative APIs (header x-llmstack-admin-key). Without it "
        "they are closed. tritonserver takes the key as an argument, so users of this machine can see it in ps.",
        show_default=False,
    ),
]
RequireApiKeys = Annotated[
    bool | None,
    typer.Option(
        "--require-api-keys/--no-require-api-keys",
        envvar="LLMSTACK_REQUIRE_API_KEYS",
        help="Reject requests without the API key of a tenant. The default is no if only this machine can reach "
        "--host, else yes.",
        show_default=False,
    ),
]
DrainDelayS = Annotated[
    float,
    typer.Option(
        "--drain-delay-secs",
        envvar="LLMSTACK_DRAIN_DELAY_S",
        min=0,
        help="How long new requests are still served after /readyz reports a drain, until load balancers have seen it.",
    ),
]
ExitTimeoutS = Annotated[
    int,
    typer.Option(
        "--exit-timeout-secs",
        envvar="LLMSTACK_EXIT_TIMEOUT_S",
        min=0,
        help="How long a drain waits for requests in flight.",
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
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the server's log here too, with canaries.")]
LogFormat = Annotated[
    LogFormatName,
    typer.Option(
        envvar="LLMSTACK_LOG_FORMAT",
        help="json: one JSON line each, with time and level, also for the server's log; canaries only with --verbose.",
    ),
]
ExamineFirst = Annotated[
    bool,
    typer.Option("--examine", help="First run the checks of llmstack doctor, and exit when one fails."),
]
