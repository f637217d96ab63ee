"""Eval slices: JSON lines, each with one request and the expectations on its answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SUFFIX = ".jsonl"


class SliceError(ValueError):
    """A slice file can't be used; the text names file, line and key of every error."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Expectations(_Strict):
    """The expectations on an answer; those left out are not checked.

    `values` maps JSON pointers (RFC 6901) to the values that the answer's JSON must have there.
    """

    values: dict[str, Any] = Field(default_factory=dict)
    schema_valid: bool | None = None
    finish_reason: str | None = None
    max_cost_usd: float | None = Field(default=None, ge=0)
    max_input_tokens: int | None = Field(default=None, ge=0)
    max_output_tokens: int | None = Field(default=None, ge=0)
    max_queue_delay_us: int | None = Field(default=None, ge=0)


class Slice(_Strict):
    """One request. `engine_hash` and `quantisation` name the engine it is for; without them it is for any engine."""

    id: str = Field(min_length=1, max_length=128)
    task: str | None = None
    messages: list[dict[str, str]] | None = None
    text_input: str | None = None
    schema_id: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0)
    engine_hash: str | None = None
    quantisation: str | None = None
    expect: Expectations = Expectations()

    @model_validator(mode="after")
    def _has_one_prompt(self) -> Slice:
        if (self.messages is None) == (self.text_input is None):
            raise ValueError("exactly one of messages and text_input is needed")
        return self

    @model_validator(mode="after")
    def _expects_something(self) -> Slice:
        if self.expect == Expectations():
            raise ValueError("expect is empty: every answer would pass")
        return self


def read_slices(directory: Path) -> dict[str, list[Slice]]:
    """The slices of every file in `directory`, which may also be a single file, keyed by the file's stem.

    Raises:
        SliceError: there are no slices, or a line is invalid, or an id is used twice; lists every error.
    """
    errors: list[str] = []
    slices = {file.stem: _read_file(file, errors) for file in slice_files(directory)}
    seen: set[str] = set()
    for each in (each for group in slices.values() for each in group):
        if each.id in seen:
            errors.append(f"the id {each.id!r} is used twice")
        seen.add(each.id)
    if errors:
        raise SliceError("\n".join(errors))
    if not seen:
        raise SliceError(f"no slices in {directory}: files end in {SUFFIX}, with one JSON object per line")
    return slices


def slice_files(directory: Path) -> list[Path]:
    """Every slice file in `directory`, sorted by name; for a single file, that file."""
    return sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else [directory]


def _read_file(file: Path, errors: list[str]) -> list[Slice]:
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")  # `splitlines` also splits at U+2028 and others
    except (OSError, UnicodeDecodeError) as error:
        errors.append(f"{file}: {error}")
        return []
    parsed = [_parse(f"{file.name}:{number}", line, errors) for number, line in enumerate(lines, 1) if line.strip()]
    return [each for each in parsed if each is not None]


def _parse(where: str, line: str, errors: list[str]) -> Slice | None:
    try:
        return Slice.model_validate_json(line)
    except ValidationError as error:
        errors += _error_texts(where, error.errors(include_url=False))
        return None


def _error_texts(where: str, errors: Sequence[Any]) -> list[str]:
    return [f"{where}: {'.'.join(map(str, error['loc'])) or 'line'}: {error['msg']}" for error in errors]
