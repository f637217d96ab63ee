"""`llmstack ready`: the document of `/readyz`, with an exit status for shells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from llmstack.cli.terminal import print_json

READY, NOT_READY = 0, 1
TIMEOUT_S = 10.0

Url = Annotated[
    str | None,
    typer.Option(envvar="LLMSTACK_READY_URL", help="Query this /readyz instead of this machine's.", show_default=False),
]
Port = Annotated[int, typer.Option(envvar="LLMSTACK_READY_PORT", min=1, max=65535, help="The port on this machine.")]
Json = Annotated[bool, typer.Option("--json", help="Print the document as /readyz sends it.")]


def ready(url: Url = None, port: Port = 8003, as_json: Json = False) -> None:
    """Print whether the service is ready, and the reasons when it is not; the exit status is 0 when ready, else 1.

    Example: llmstack ready --url http://gpu-7:8003/readyz && echo go
    """
    url = url or f"http://127.0.0.1:{port}/readyz"
    document = _fetch(url)
    if as_json:
        print_json(document)
    else:
        _show(document)
    raise typer.Exit(READY if document["ready"] else NOT_READY)


def _fetch(url: str) -> dict[str, Any]:
    """The document of `/readyz`; an unready one with a reason when the URL does not answer with such a document."""
    import httpx

    try:
        document = httpx.get(url, timeout=TIMEOUT_S, trust_env=False).json()
        if isinstance(document, dict) and isinstance(document.get("ready"), bool):
            return document
        reason = f"{url} is not a /readyz of llmstack"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"{url} does not answer: {error}"
    except ValueError:
        reason = f"{url} is not a /readyz of llmstack"
    return {"ready": False, "reasons": [reason]}


def _show(document: Mapping[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print("[green]ready[/]" if document["ready"] else "[red]not ready[/]")
    for reason in document["reasons"]:
        console.print(f"  {escape(reason)}")
    rows = {name: _text(value) for name, value in document.items() if name not in ("ready", "reasons")}
    width = max(map(len, rows), default=0) + 2
    for name, value in rows.items():  # no table: a narrow one would truncate the hashes
        console.print(f"[bold]{name:<{width}}[/]{escape(value)}")


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    return str(value)
