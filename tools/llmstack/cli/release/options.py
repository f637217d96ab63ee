"""The options that several release commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

_NUM_SIGN_OFFS_VARIABLE = "LLMSTACK_REQUIRED_SIGN_OFFS"
ArtifactsDir = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        envvar="LLMSTACK_ARTIFACTS_DIR",
        help="The directory with releases/ and current, the link to the release in service.",
    ),
]
StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The state directory of `llmstack serve`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ReleaseName = Annotated[str, typer.Argument(help="A release's name, or its directory.", show_default=False)]
StartTimeoutS = Annotated[
    float | None,
    typer.Option(
        "--start-timeout-secs",
        min=1,
        help="How long loading the release's models may take.",
        show_default="the service's",
    ),
]

Against = Annotated[
    list[Path] | None,
    typer.Option(help="A manifest of the evaluation side, besides those in the release's module6/. Repeatable."),
]
BoardUrl = Annotated[
    str | None, typer.Option(envvar="LLMSTACK_BOARD_URL", help="The readiness board.", show_default=False)
]
BoardTokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="LLMSTACK_BOARD_TOKEN_FILE",
        help="A file with a token of `llmstack board reader add`.",
        show_default=False,
    ),
]
NumSignOffs = Annotated[
    int,
    typer.Option(
        "--required-sign-offs",
        envvar=_NUM_SIGN_OFFS_VARIABLE,
        min=0,
        help="Required number of sign-offs. Fewer than the variable says (2 without it) need --override.",
    ),
]

HttpUrl = Annotated[str, typer.Option(envvar="LLMSTACK_HTTP_URL", help="The HTTP endpoint of the running service.")]
GrpcUrl = Annotated[str, typer.Option(envvar="LLMSTACK_GRPC_URL", help="Its gRPC endpoint.")]
MetricsUrl = Annotated[str, typer.Option(envvar="LLMSTACK_METRICS_URL", help="Its metrics page.")]
ReadyUrl = Annotated[
    str, typer.Option(envvar="LLMSTACK_READY_URL", help="Its /readyz, which names the release that it serves.")
]
ApiKey = Annotated[
    str,
    typer.Option(
        envvar="LLMSTACK_API_KEY",
        help="The API key of a tenant, for a service that requires keys. Prefer the variable: ps shows arguments.",
        show_default=False,
    ),
]
Serve = Annotated[
    bool,
    typer.Option("--serve", help="Start a server of this release on free ports instead, and stop it at the end."),
]


def min_sign_offs() -> int:
    """The number of sign-offs configured for this installation.

    Call it after the option was parsed, which rejects a variable that is not a number.
    """
    from llmstack.release.defaults import NUM_SIGN_OFFS

    return int(os.environ.get(_NUM_SIGN_OFFS_VARIABLE) or NUM_SIGN_OFFS)
