"""`llmstack headers`: the two headers that every request needs, ready to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llm_policy.rules.headers import API_KEY, AUTHORIZATION
from llmstack.cli.terminal import fail
from llmstack.paths import DEFAULT_RELEASE_DIR

_API_KEY_NOTE = (
    f"An API key, where the server requires one, is one more header: `{AUTHORIZATION}: Bearer KEY` or `{API_KEY}: KEY` "
    "(OpenAI's SDK: api_key). On /generate, all of them are members of the JSON body."
)


class HeaderFormat(str, Enum):
    """How the headers are printed."""

    CURL = "curl"
    PYTHON = "python"
    JSON = "json"
    ENV = "env"


def headers(
    release: Annotated[
        Path, typer.Option(envvar="LLMSTACK_RELEASE_DIR", help="The release that the server runs.")
    ] = DEFAULT_RELEASE_DIR,
    form: Annotated[
        HeaderFormat,
        typer.Option("--format", help="curl, python, json, or env: HASH and QUANTISATION, to eval in a shell."),
    ] = HeaderFormat.CURL,
) -> None:
    """Print the headers with which a request names the release's engine; where an API key goes, on standard error.

    Example: eval "$(llmstack headers --format env)"
    """
    from llm_policy.release.release import Release, ReleaseError
    from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION

    try:
        engine = Release.open(release).manifest.engine
    except ReleaseError as error:
        fail(error, "name the release directory that the server runs by --release or LLMSTACK_RELEASE_DIR")
    typer.echo(_FORMATS[form]({ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}))
    typer.echo(_API_KEY_NOTE, err=True)


def _as_curl(values: Mapping[str, str]) -> str:
    return " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in values.items())


def _as_python(values: Mapping[str, str]) -> str:
    """In lower case, as gRPC requires; HTTP takes any case."""
    return f"headers = {json.dumps({name.lower(): value for name, value in values.items()})}"


def _as_env(values: Mapping[str, str]) -> str:
    from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION

    return f"export HASH={shlex.quote(values[ENGINE_HASH])} QUANTISATION={shlex.quote(values[QUANTISATION])}"


_FORMATS: Mapping[HeaderFormat, Callable[[Mapping[str, str]], str]] = {
    HeaderFormat.CURL: _as_curl,
    HeaderFormat.PYTHON: _as_python,
    HeaderFormat.JSON: json.dumps,
    HeaderFormat.ENV: _as_env,
}
