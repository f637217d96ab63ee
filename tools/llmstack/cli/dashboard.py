"""`llmstack dashboard`: writes the Grafana dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.terminal import fail
from llmstack.paths import PROJECT_ROOT

DEFAULT_OUTPUT = PROJECT_ROOT / "docker" / "grafana" / "dashboards" / "llmstack.json"


def dashboard(
    output: Annotated[Path, typer.Option(help="The file to write.")] = DEFAULT_OUTPUT,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write the Grafana dashboard, which llmstack/dashboard/panels.py defines. An existing file stays as it is.

    Requires Python 3.11 and the package grafana-foundation-sdk.

    Example: llmstack dashboard --output dashboard.json
    """
    if output.exists() and not force:
        fail(f"{output} exists", "give --force to overwrite it, or name another file with --output")
    try:
        from llmstack.dashboard.grafana import dashboard_json
    except ImportError:
        fail(
            "the package grafana-foundation-sdk is not installed", "pip install 'llm-serving-stack[dev]' on Python 3.11"
        )
    try:
        output.write_text(dashboard_json(), encoding="utf-8")
    except OSError as error:
        fail(f"{output}: {error.strerror}", "name a writable file")
    typer.echo(f"wrote {output}")
