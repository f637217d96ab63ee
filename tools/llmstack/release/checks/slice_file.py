"""Eval slices: JSON lines, each one question and what must hold of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SUFFIX = ".jsonl"


class SliceError(ValueError):
    """A file of slices can't be used; the text names file, line and key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Expectations(_Strict):
    """What must hold of an answer; what is not named is not looked at.

    `values` has a JSON pointer (RFC 6901) for each value that the answer's JSON must have there.
    """

    values: dict[str, Any] = Field(default_factory=dict)
    schema_valid: bool | None = None
    finish_reason: str | None = None
    max_cost_usd: float | None = Field(default=None, ge=0)
    max_input_tokens: int | None = Field(default=None, ge=0)
    max_output_tokens: int | None = Field(default=None, ge=0)
    max_queue_delay_us: int | None = Field(default=None, ge=0)


class Slice(_Strict):
    """One question. `engine_hash` and `quantisation` say which engine it is for; without them it is for any."""

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
            raise ValueError("expect is empty: an answer that may be anything proves nothing")
        return self


def read_slices(directory: Path) -> dict[str, list[Slice]]:
    """The slices of every file in `directory`, or of the one file, by the file's name.

    Raises:
        SliceError: there are none, a line is wrong, or an id comes twice; lists every fault.
    """
    faults: list[str] = []
    slices = {file.stem: _read_file(file, faults) for file in slice_files(directory)}
    seen: set[str] = set()
    for each in (each for group in slices.values() for each in group):
        if each.id in seen:
            faults.append(f"the id {each.id!r} comes twice")
        seen.add(each.id)
    if faults:
        raise SliceError("\n".join(faults))
    if not seen:
        raise SliceError(f"no slices in {directory}: files end in {SUFFIX}, one JSON object a line")
    return slices


def slice_files(directory: Path) -> list[Path]:
    """Every file of slices in `directory`, or the one file, by name."""
    return sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else [directory]


def _read_file(file: Path, faults: list[str]) -> list[Slice]:
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")  # not at what else Unicode takes for a line's end
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{file}: {error}")
        return []
    parsed = [_parse(f"{file.name}:{number}", line, faults) for number, line in enumerate(lines, 1) if line.strip()]
    return [each for each in parsed if each is not None]


def _parse(where: str, line: str, faults: list[str]) -> Slice | None:
    try:
        return Slice.model_validate_json(line)
    except ValidationError as error:
        faults += _described(where, error.errors(include_url=False))
        return None


def _described(where: str, errors: Sequence[Any]) -> list[str]:
    return [f"{where}: {'.'.join(map(str, error['loc'])) or 'line'}: {error['msg']}" for error in errors]
