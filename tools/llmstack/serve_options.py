"""The options of `llmstack serve`: each has a flag, most an environment variable for containers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmstack.server_command import ENGINES

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
HttpPort = Annotated[int, typer.Option(envvar="LLMSTACK_HTTP_PORT", min=0, max=65535, help=_PORT_HELP)]
GrpcPort = Annotated[int, typer.Option(envvar="LLMSTACK_GRPC_PORT", min=0, max=65535, help=_PORT_HELP)]
MetricsPort = Annotated[int, typer.Option(envvar="LLMSTACK_METRICS_PORT", min=0, max=65535, help=_PORT_HELP)]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="LLMSTACK_ADMIN_KEY_FILE",
        help="A file with the key that opens Triton's administrative APIs (header x-llmstack-admin-key). Without it "
        "they are closed. tritonserver takes the key as an argument: users of this machine can see it in ps.",
        show_default=False,
    ),
]
ExitTimeoutS = Annotated[
    int, typer.Option("--exit-timeout-secs", min=0, help="How long requests under way may take at the end.")
]
StartTimeoutS = Annotated[
    float, typer.Option("--start-timeout-secs", min=1, help="How long loading the models may take.")
]
LogVerbose = Annotated[int, typer.Option(min=0, help="Triton's own verbosity; 1 logs every request.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the server's log here too.")]
