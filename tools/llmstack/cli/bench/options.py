"""Options that several `llmstack bench` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MeasuredRelease = Annotated[Path, typer.Option("--release", help="The release to measure.")]
PromptTokens = Annotated[int, typer.Option(min=1, help="Approximate number of tokens per prompt.")]
CompletionTokens = Annotated[int, typer.Option(min=1, help="Maximum number of tokens per completion.")]
