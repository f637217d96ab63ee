"""Environment variables that are read outside of the command line's options.

The options name their own variables; `llmstack configuration` lists both. A contract test finds every variable of the
sources in one of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from llm_policy.ledger.outbox import ENDPOINTS
from llmstack.events.endpoint import secret_variable, url_variable


class Variable(NamedTuple):
    """One environment variable; `default` is what holds without it, as text."""

    name: str
    default: str
    meaning: str


_ENGINE = (
    Variable(
        "LLMSTACK_ENGINE_PYTHON",
        "the Python of llmstack",
        "Python of the engine process. It needs msgspec and the engine's packages. The image with vLLM sets it.",
    ),
    Variable(
        "LLMSTACK_ENGINE_DEVICE", "a GPU if there is one, else cpu", "Device of the portable engine: cpu, cuda, cuda:1."
    ),
    Variable(
        "LLMSTACK_ENGINE_DTYPE",
        "float32 on a CPU, else bfloat16",
        "Data type of the portable engine's weights, a name of torch.",
    ),
    Variable(
        "LLMSTACK_ENGINE_THREADS",
        "1 for a small model, one per core for a larger one",
        "CPU threads of the portable engine.",
    ),
    Variable("LLMSTACK_ENGINE_CUDA_GRAPHS", "1", "0 turns CUDA graphs of the decoding step off."),
    Variable(
        "LLMSTACK_ENGINE_RANDOM_WEIGHTS",
        "0",
        "1 lets the portable engine draw random weights where a release has none: for measurements only.",
    ),
)

_SERVICE = (
    Variable(
        "LLMSTACK_INSTANCE",
        "the host name",
        "Name of this server in the `source` of its events, `/llmstack/<instance>`.",
    ),
    *(
        variable
        for endpoint in ENDPOINTS
        for variable in (
            Variable(url_variable(endpoint), "none: no events are sent", f"URL of the {endpoint} webhook."),
            Variable(
                secret_variable(endpoint),
                "none; required with the URL",
                f"File with the secrets (`whsec_…`, one a line) that sign events for the {endpoint} webhook.",
            ),
        )
    ),
    Variable("LLMSTACK_PYTHON", "the stub's own Python", "Python that runs the sandboxed guide compilers."),
    Variable("XDG_STATE_HOME", "~/.local/state", "Parent of the default state directory, `llmstack`."),
    Variable(
        "PERF_ANALYZER", "perf_analyzer on PATH", "The perf_analyzer program of `llmstack bench` and `make bench`."
    ),
)

_INTERNAL = (
    Variable("LLMSTACK_BOOT_ID", "", "Id of one start of the server, in each row of the ledger."),
    Variable("LLMSTACK_CANARY_TOKEN", "", "Secret that marks the parent's canary requests."),
    Variable("LLMSTACK_RELEASE_FINGERPRINT", "", "Fingerprint of the release's files that the parent verified."),
    Variable(
        "LLMSTACK_TENSORRTLLM_ADDRESS",
        "",
        "The server's own gRPC port, `host:port`, where ensemble_stream reaches a decoupled tensorrt_llm.",
    ),
    Variable("LLMSTACK_GUIDE_BACKENDS", "xgrammar", "Structured-output backends that the engine takes."),
)

_CONTAINERS = (
    Variable("LLMSTACK_SKIP_DOCTOR", "0", "1 starts the container without `llmstack doctor`."),
    Variable("LLMSTACK_IMAGE", "llmstack", "Image that the compose file starts."),
    Variable("LLMSTACK_ARTIFACTS", "../artifacts", "Directory with the releases that the compose file mounts."),
    Variable("LLMSTACK_ARTIFACTS_MODE", "ro", "rw lets releases be promoted inside the container."),
    Variable("LLMSTACK_MEMORY", "24g", "Memory limit of the compose file's server."),
    Variable("LLMSTACK_SHM_SIZE", "8g", "Size of /dev/shm of the compose file's server with GPUs."),
    Variable("GATEWAY_HTTPS_PORT", "8443", "Published port of the compose file's gateway for HTTPS."),
    Variable("GATEWAY_GRPC_PORT", "8444", "Published port of the compose file's gateway for gRPC over TLS."),
    Variable(
        "GATEWAY_CERTIFICATE", "./secrets/gateway.pem", "Certificate chain and key of the compose file's gateway."
    ),
    Variable("BOARD_PORT", "8004", "Published port of the compose file's board, on 127.0.0.1."),
    Variable("GRAFANA_PORT", "3000", "Published port of the compose file's Grafana, on 127.0.0.1."),
    Variable("READINESS_WEBHOOK_SECRET", "./secrets/readiness_webhook", "File that the compose file mounts as secret."),
    Variable("FINANCE_WEBHOOK_SECRET", "./secrets/finance_webhook", "File that the compose file mounts as secret."),
    Variable("GRAFANA_PASSWORD", "./secrets/grafana_password", "File with Grafana's password."),
    Variable("HAPROXY_IMAGE", "haproxy:2.6-alpine", "The compose file's image of HAProxy."),
    Variable("PROMETHEUS_IMAGE", "prom/prometheus:v3.5.0", "The compose file's image of Prometheus."),
    Variable("GRAFANA_IMAGE", "grafana/grafana:12.2.0", "The compose file's image of Grafana."),
)

_SERVE_TRITON = (
    Variable("ENGINE_PATH", "artifacts/engines/qwen3-32b-w4a8.plan", "The engine's file or directory."),
    Variable("MODEL_REPO", "model_repository", "Triton's model repository."),
    Variable("TOKENIZER_DIR", "artifacts/current/tokenizer", "The tokenizer's directory."),
    Variable(
        "TOKENIZER_INFO",
        "artifacts/current/tokenizer_info.json",
        "The tokenizer info; manifest.json and schemas/ lie beside it.",
    ),
    Variable("TRITON_IMAGE", "llmstack, or llmstack-vllm for vllm", "The image, with llmstack in it."),
    Variable("TRITON_HTTP_PORT", "8000", "Published port of HTTP."),
    Variable("TRITON_GRPC_PORT", "8001", "Published port of gRPC."),
    Variable("TRITON_METRICS_PORT", "8002", "Published port of the metrics."),
    Variable("TRITON_OPENAI_PORT", "8005", "Published port of the OpenAI API."),
    Variable("TRITON_BIND_ADDRESS", "127.0.0.1", "Address on which the ports are published."),
    Variable("TRITON_GPUS", "all where there is an NVIDIA GPU, else none", "Docker's --gpus."),
    Variable("TRITON_SHM_SIZE", "1g, or 8g for vllm and trtllm-api", "Docker's --shm-size."),
)

_DEVELOPMENT = (
    Variable("PYTHON", "python3", "Python that `make install` makes the environment with."),
    Variable("VENV", ".venv", "The environment of the Makefile's targets."),
    Variable("TORCH_INDEX", "pip's own index", "Package index from which `make install` takes torch."),
    Variable("ARGS", "", "Arguments for what a target of the Makefile runs."),
    Variable("LLMSTACK_SOAK", "0", "1 runs the tests that are left to `make soak`."),
    Variable("LLMSTACK_SOAK_KILLS", "3", "Kills of the soak test of restarts."),
    Variable("LLMSTACK_SOAK_REQUESTS", "1000", "Requests of the soak test of the ledger."),
    Variable("LLMSTACK_STREAMS", "600", "Streams of the test of many streams."),
    Variable("LLMSTACK_API_CASES", "40", "Requests that schemathesis generates for each operation of the OpenAI API."),
)

GROUPS: Mapping[str, Iterable[Variable]] = {
    "Service": _SERVICE,
    "Engine process": _ENGINE,
    "Containers": _CONTAINERS,
    "docker/serve_triton.sh": _SERVE_TRITON,
    "Development": _DEVELOPMENT,
    "Set by llmstack for its own child processes; leave them unset": _INTERNAL,
}
