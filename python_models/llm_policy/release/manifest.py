"""The runtime manifest (`manifest.json`): the engine, thresholds, prices, tasks and schemas of a release.

Validation is strict: an unknown key, a wrong type or a value out of range fails the load, and the error names the key,
the given value and what is allowed. The only defaults are those of the fields below.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm_policy.pricing import Price, nano_usd, nano_usd_per_token
from llm_policy.release.guide_limits import GuideLimits

TASKS = ("generate_json", "rank_candidates", "judge")
"""The guide's tasks, which every release has. A release may have tasks of its own beside them."""
MAX_TASKS = 32
"""Each is a value of a metric's label."""
NO_TASK = "none"
"""The label of requests without a task, so no task has this name."""

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
# A path inside the release. Links that lead outside are rejected when the file is read (`Release.schema_text`).
RelativePath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=256)
]
Probability = Annotated[float, Field(gt=0.0, le=1.0)]


def _check_token_price(value: float) -> float:
    nano_usd_per_token(value)
    return value


def _check_amount(value: float) -> float:
    nano_usd(value)
    return value


UsdPerMillion = Annotated[float, Field(ge=0.0, le=1_000_000.0), AfterValidator(_check_token_price)]


class ManifestError(ValueError):
    """The manifest is invalid; the text lists every invalid key with its value and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Engine(_Strict):
    """The engine of this release."""

    hash: Sha256
    quantisation: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
    model: Annotated[str, Field(min_length=1, max_length=128)]
    max_batch_size: Annotated[int, Field(ge=1, le=64)] = 4
    max_queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Admitted requests without an answer, shared by the tenants."""
    max_queue_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)] = 500_000
    """Completion tokens that these requests may still need, shared by the tenants."""
    max_answer_s: Annotated[float, Field(gt=0, le=600)] = 300.0
    """How long the engine may take for an answer; then its decoding ends."""


class TokenizerInfo(_Strict):
    """The tokenizer-info file that the engine's guided decoding reads."""

    info_hash: Sha256


class Thresholds(_Strict):
    """The limits of one request."""

    max_queue_delay_us: Annotated[int, Field(ge=0)] = 2_500
    max_prompt_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    max_tokens: Annotated[int, Field(ge=2, le=1_000_000)] = 6_000  # prompt + completion
    max_cost_usd: Annotated[float, Field(ge=0.0, le=1_000.0), AfterValidator(_check_amount)] = 0.10

    @property
    def max_cost_nano_usd(self) -> int:
        """The cost limit of one request in nano-dollars."""
        return nano_usd(self.max_cost_usd)


class Prices(_Strict):
    """Token prices. Both are required."""

    input_usd_per_million: UsdPerMillion
    output_usd_per_million: UsdPerMillion

    @property
    def per_token(self) -> Price:
        """The prices in integer nano-dollars per token."""
        return Price(nano_usd_per_token(self.input_usd_per_million), nano_usd_per_token(self.output_usd_per_million))


class Task(_Strict):
    """One task's sampling and, optionally, its schema and default completion length."""

    temperature: Annotated[float, Field(ge=0.0, le=2.0)]
    top_p: Probability | None = None
    schema_id: Name | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None


class Guidance(_Strict):
    """The rules for guides."""

    unenforced_keywords: Literal["report", "reject"] = "report"
    allow_adhoc: bool = True
    backend: Literal["auto", "xgrammar", "llguidance"] = "auto"
    """The structured-output backend; `auto` takes the better one of those that the engine has."""
    max_compile_ms: Annotated[int, Field(ge=1, le=60_000)] = 1_000
    max_mask_ms: Annotated[float, Field(gt=0, le=1_000)] = 5.0
    """Longest token mask of a guide: the engine's whole batch waits for it."""
    max_adhoc_per_minute: Annotated[int, Field(ge=0, le=100_000)] = 120
    limits: GuideLimits = GuideLimits()


class Manifest(_Strict):
    """One release's runtime manifest (`manifest.json`)."""

    engine: Engine
    tokenizer: TokenizerInfo
    thresholds: Thresholds = Thresholds()
    prices: Prices
    on_cost_breach: Literal["notify", "reject"] = "notify"
    tasks: Annotated[dict[Name, Task], Field(max_length=MAX_TASKS)]
    schemas: dict[Name, RelativePath] = {}
    guidance: Guidance = Guidance()

    @model_validator(mode="after")
    def _tasks_are_complete(self) -> Manifest:
        missing = [name for name in TASKS if name not in self.tasks]
        if missing:
            raise ValueError(f"tasks: {', '.join(missing)} missing; all of {', '.join(TASKS)} are required")
        if NO_TASK in self.tasks:
            raise ValueError(f"tasks.{NO_TASK}: this name stands for requests without a task, choose another")
        for name, task in self.tasks.items():
            if task.schema_id is not None and task.schema_id not in self.schemas:
                known = ", ".join(sorted(self.schemas)) or "none"
                raise ValueError(f"tasks.{name}.schema_id: {task.schema_id!r} is not in schemas (known: {known})")
        return self

    @model_validator(mode="after")
    def _budgets_fit(self) -> Manifest:
        if self.thresholds.max_prompt_tokens >= self.thresholds.max_tokens:
            raise ValueError(
                f"thresholds.max_prompt_tokens: {self.thresholds.max_prompt_tokens} must be below "
                f"thresholds.max_tokens {self.thresholds.max_tokens}, which counts prompt and completion"
            )
        return self


def parse_manifest(text: str | bytes) -> Manifest:
    """Parse and validate a manifest.

    Raises:
        ManifestError: one line for each invalid key.
    """
    try:
        _reject_duplicate_keys(text)
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError("\n".join(_describe(detail) for detail in error.errors())) from None


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read the manifest at `path`; also returns the hash (`sha256:…`) of its bytes.

    Raises:
        ManifestError: the file is missing, unreadable or invalid.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from None
    try:
        return parse_manifest(raw), "sha256:" + hashlib.sha256(raw).hexdigest()
    except ManifestError as error:
        raise ManifestError(f"{path}:\n{error}") from None


def _reject_duplicate_keys(text: str | bytes) -> None:
    """Reject duplicate keys: a JSON parser silently uses the last one, where a human reader may trust the first.

    Raises:
        ManifestError: a key appears twice in one object, or the text is not JSON.
    """
    try:
        json.loads(text, object_pairs_hook=_check_distinct)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"manifest: invalid JSON: {error}") from None


def _check_distinct(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ManifestError(f"{key}: appears twice in one object, allowed once")
        seen.add(key)


def _describe(detail: Any) -> str:
    """`key: value: what is allowed` for one of pydantic's errors."""
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    allowed = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(detail["loc"][:-1]))
        return f"{key}: unknown key, allowed are {known}"
    if detail["type"] == "missing":
        return f"{key}: required, missing"
    if not key and detail["type"] == "value_error":  # a rule over several keys; its text names them
        return allowed
    given = json.dumps(detail["input"], default=str, ensure_ascii=False)[:80]
    return f"{key or 'manifest'}: {given}: {allowed}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys of the section at `location`."""
    section: Any = Manifest
    for part in location:
        if section is Manifest and part == "tasks":
            return list(Task.model_fields)
        section = section.model_fields[part].annotation
    return list(section.model_fields)
