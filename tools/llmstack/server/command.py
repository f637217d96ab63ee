"""The command line and the environment of one `tritonserver`."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from llm_policy.guidance.backends.names import ENVIRONMENT_VARIABLE as GUIDE_BACKENDS
from llm_policy.guidance.compile.sandbox import PYTHON
from llm_policy.rules.headers import CANARY_TOKEN, CLIENT_HEADERS
from llmstack.paths import SOURCE_ROOT
from llmstack.server.binary import ServerBinary
from llmstack.server.engines import DECOUPLED as DECOUPLED
from llmstack.server.engines import ENGINES as ENGINES
from llmstack.server.engines import TENSORRT_LLM as TENSORRT_LLM
from llmstack.server.engines import TENSORRT_LLM_MODES as TENSORRT_LLM_MODES
from llmstack.server.engines import UNARY as UNARY
from llmstack.server.engines import EngineConfig as EngineConfig
from llmstack.server.error import ServerStartError
from llmstack.server.ports import Ports

# Forwarded to the models as request parameters. Not `.*`: newer servers reject parameters with reserved names.
FORWARDED_HEADERS = (*CLIENT_HEADERS, CANARY_TOKEN)

# A client of these APIs can load a model, read another process's memory region, or write files on this machine.
ADMIN_APIS = ("model-repository", "shared-memory", "trace", "logging")
ADMIN_KEY_HEADER = "x-llmstack-admin-key"
# Triton expects the key of a restricted gRPC API under this prefix in the metadata.
GRPC_ADMIN_KEY_METADATA = f"triton-grpc-protocol-{ADMIN_KEY_HEADER}"


ENSEMBLE, STREAM_MODEL = "ensemble", "ensemble_stream"
_STEPS = ("preprocess", "postprocess")


def entry_model(engine: str, mode: str = UNARY) -> str:
    """The model that answers every request: `ensemble`, or `ensemble_stream` before an engine that only streams."""
    return STREAM_MODEL if engine == TENSORRT_LLM and mode == DECOUPLED else ENSEMBLE


def check_mode(engine: str | None, mode: str) -> str:
    """The mode of TensorRT-LLM's C++ backend, if the operator chose that engine.

    Raises:
        ServerStartError: `decoupled` for another engine, or one that is left to the release.
    """
    if mode == DECOUPLED and engine != TENSORRT_LLM:
        chosen = f"--engine {engine}" if engine else "an engine that the release chooses"
        raise ServerStartError(
            f"--tensorrtllm-mode {DECOUPLED} does not go with {chosen}",
            f"choose --engine {TENSORRT_LLM}; every other engine serves streams without this option",
        )
    return mode


def header_pattern(names: Iterable[str] = FORWARDED_HEADERS) -> str:
    """An RE2 pattern that matches exactly these header names, in any case."""
    return f"(?i)^({'|'.join(names).lower()})$"


class Tracing(NamedTuple):
    """Spans of one of `rate` requests go to `url`, the HTTP receiver of an OpenTelemetry collector."""

    url: str
    rate: int = 1


def parse_tracing(url: str, rate: int) -> Tracing:
    """The tracing to the collector at `url`.

    Raises:
        ServerStartError: `url` is not a whole http(s) URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServerStartError(
            f"--trace {url} is not an http(s) URL",
            "give the collector's whole URL, such as http://localhost:4318/v1/traces",
        )
    return Tracing(url, rate)


def network_flags(host: str, ports: Ports, metrics_host: str | None = None) -> list[str]:
    """The flags for addresses, ports and forwarded headers."""
    pattern = header_pattern()
    return [
        f"--http-address={host}",
        f"--grpc-address={host}",
        f"--metrics-address={metrics_host or host}",
        *(f"--{protocol}-port={port}" for protocol, port in ports._asdict().items()),
        f"--http-header-forward-pattern={pattern}",
        f"--grpc-header-forward-pattern={pattern}",
    ]


def admin_flags(key: str) -> list[str]:
    """The flags that restrict the administrative APIs to requests with `key`.

    tritonserver takes the key only from its command line, so every user of this machine can see it in `ps`. It keeps
    network clients out, not local users, for whom loading a model is running code as the server's user.
    """
    restriction = f"{','.join(ADMIN_APIS)}:{ADMIN_KEY_HEADER}={key}"
    return [f"--http-restricted-api={restriction}", f"--grpc-restricted-protocol={restriction}"]


def trace_flags(tracing: Tracing | None) -> list[str]:
    """The flags for Triton's OpenTelemetry spans, which continue a client's `traceparent`."""
    if tracing is None:
        return []
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        f"rate={tracing.rate}",
        "count=-1",
        f"opentelemetry,url={tracing.url}",
        "opentelemetry,resource=service.name=llmstack",
    )
    return [f"--trace-config={setting}" for setting in settings]


def model_flags(repositories: Iterable[Path], backends: Path, engine: str, mode: str = UNARY) -> list[str]:
    """The flags for the models that the server loads, and for the engine in its `mode`.

    Every model is loaded at the start. Explicit control lets the parent process load a single one anew
    (`model_control`); clients need the admin key for it.
    """
    config = DECOUPLED if entry_model(engine, mode) == STREAM_MODEL else ENGINES[engine].config
    repositories = list(repositories)
    return [
        *(f"--model-repository={repository}" for repository in repositories),
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in _models(repositories, engine, mode)),
        f"--backend-directory={backends}",
        *([f"--model-config-name={config}"] if config else []),
    ]


def _models(repositories: Iterable[Path], engine: str, mode: str) -> list[str]:
    """The models to load. An engine inside tritonserver serves either the ensemble or streams."""
    if ENGINES[engine].has_process:
        return ["*"]
    models = {path.parent.name for repository in repositories for path in repository.glob("*/config.pbtxt")}
    is_streaming = entry_model(engine, mode) == STREAM_MODEL
    return sorted(models - ({ENSEMBLE, *_STEPS} if is_streaming else {STREAM_MODEL}))


def server_environment(
    binary: ServerBinary,
    release_dir: Path,
    state_dir: Path,
    engine: str,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """`environment` with the variables that the server, its Python stubs and their children need.

    A stub embeds Python and has to find this virtual environment. The PyPI server's stubs for 3.11 and later start
    Python isolated: it ignores PYTHONPATH and `sys.executable`, but looks for `python3` on PATH and follows the
    pyvenv.cfg beside it. The stub for 3.10 and the image's stub read PYTHONPATH, but no .pth files in it, so the source
    root is added.
    """
    packages = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    return {
        **environment,
        "PATH": _joined(Path(sys.executable).parent, environment.get("PATH", os.defpath)),
        "LD_LIBRARY_PATH": _joined(*binary.library_dirs, environment.get("LD_LIBRARY_PATH")),
        "PYTHONPATH": _joined(*packages, SOURCE_ROOT, environment.get("PYTHONPATH")),
        "LLMSTACK_RELEASE_DIR": str(release_dir),
        "LLMSTACK_STATE_DIR": str(state_dir),
        GUIDE_BACKENDS: ",".join(ENGINES[engine].guide_backends),
        PYTHON: sys.executable,
    }


def _joined(*paths: Path | str | None) -> str:
    return os.pathsep.join(dict.fromkeys(str(path) for path in paths if path))
