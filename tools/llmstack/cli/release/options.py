"""The options that several release commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from llmstack.paths import PROJECT_ROOT

NUM_SIGN_OFFS = 2
_NUM_SIGN_OFFS_VARIABLE = "LLMSTACK_REQUIRED_SIGN_OFFS"
ArtifactsDir = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        envvar="LLMSTACK_ARTIFACTS_DIR",
        help="Holds releases/ and current, the link to the one in service.",
    ),
]
StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The state directory of `llmstack serve`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ReleaseName = Annotated[str, typer.Argument(help="A release's name, or its directory.", show_default=False)]
Against = Annotated[
    list[Path] | None,
    typer.Option(help="A runtime manifest of Module 6, besides those in the release's module6/. Repeatable."),
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
        help="Reviewers who must have signed. Fewer than the variable says (2 without it) need --override.",
    ),
]
DEFAULT_ARTIFACTS_DIR = PROJECT_ROOT / "artifacts"


def min_sign_offs() -> int:
    """How many signatures this installation wants: less is asked for at one promotion only with a reason.

    Call where the option was accepted: then the variable is a number, if it is set.
    """
    return int(os.environ.get(_NUM_SIGN_OFFS_VARIABLE) or NUM_SIGN_OFFS)
