"""The measured results of one schema, and their summary.

The names of fields and summary keys are the keys of `llmstack guides bench --json`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

PERCENTILES = (50, 90, 99)
NOTABLE_COMPILE_MS = 500
NOTABLE_MASK_MS = 5


@dataclass
class InstanceResult:
    """The results of one instance of a schema."""

    valid: bool
    """According to the file."""
    judged_valid: bool
    """According to the policy's validator."""
    accepted: bool
    """Whether the compiled grammar accepts the instance's text."""
    in_order: bool
    """Whether all properties are declared, and in the schema's order."""


@dataclass
class SchemaResult:
    """The results of one schema with one converter. Times are processor time, so that machine load matters little."""

    name: str
    refusal: str = ""
    """Error code (`timeout`, `crash` and `compile_error` are the bench's own); empty if the schema was accepted."""
    refusal_detail: str = ""
    plan_ms: float = 0.0
    admit_ms: float = 0.0
    """The policy's whole work on a new guide: every plan that it tried, compiled and probed."""
    compile_ms: float = 0.0
    probe_mask_ms: float = 0.0
    """Worst token mask that the policy's probe saw."""
    mask_ms: list[float] = field(default_factory=list)
    """Time of each token mask of all valid instances; each decode step waits this long."""
    grammar_bytes: int = 0
    unenforced: list[str] = field(default_factory=list)
    instances: list[InstanceResult] = field(default_factory=list)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p99 (nearest rank) and max, rounded to 0.01."""
    ordered = sorted(values) or [0.0]
    ranks = {f"p{p}": ordered[max(0, -(-len(ordered) * p // 100) - 1)] for p in PERCENTILES}
    return {name: round(value, 2) for name, value in {**ranks, "max": ordered[-1]}.items()}


def summarise(results: list[SchemaResult]) -> dict[str, Any]:
    """The summary of one converter. Rates are fractions of the instances of accepted schemas."""
    accepted = [result for result in results if not result.refusal]
    instances = [instance for result in accepted for instance in result.instances]
    invalid = [i for i in instances if not i.valid]
    valid = [i for i in instances if i.valid]
    in_order = [i for i in valid if i.in_order]
    return {
        "schemas": len(results),
        "accepted": len(accepted),
        "refused": dict(Counter(result.refusal for result in results if result.refusal)),
        "plan_ms": percentiles([result.plan_ms for result in accepted]),
        "admit_ms": percentiles([result.admit_ms for result in accepted]),
        "compile_ms": percentiles([result.compile_ms for result in accepted]),
        "probe_mask_ms": percentiles([result.probe_mask_ms for result in accepted]),
        "mask_ms": percentiles([value for result in accepted for value in result.mask_ms]),
        "num_masks": sum(len(result.mask_ms) for result in accepted),
        "grammar_bytes": percentiles([result.grammar_bytes for result in accepted]),
        "num_invalid": len(invalid),
        "num_valid": len(valid),
        "num_valid_in_order": len(in_order),
        "false_accept_rate": _rate(sum(i.accepted for i in invalid), len(invalid)),
        "false_reject_rate": _rate(sum(not i.accepted for i in in_order), len(in_order)),
        "false_reject_rate_all": _rate(sum(not i.accepted for i in valid), len(valid)),
        "valid_flag_errors": sum(i.judged_valid and not i.valid for i in instances),
        "invalid_flag_errors": sum(i.valid and not i.judged_valid for i in instances),
        "unenforced_schemas": sum(bool(result.unenforced) for result in accepted),
        "unenforced": dict(Counter(finding for result in accepted for finding in result.unenforced).most_common()),
        "details": [_detail(result) for result in results if _is_notable(result)],
    }


def _rate(hits: int, total: int) -> float:
    return round(hits / total, 5) if total else 0.0


def _is_notable(result: SchemaResult) -> bool:
    is_wrong = any(i.accepted != i.valid for i in result.instances)
    is_slow = result.compile_ms > NOTABLE_COMPILE_MS or max(result.mask_ms, default=0) > NOTABLE_MASK_MS
    return bool(result.refusal) or is_wrong or is_slow


def _detail(result: SchemaResult) -> dict[str, Any]:
    detail = asdict(result)
    detail["mask_ms"] = percentiles(result.mask_ms)
    detail["instances"] = [{"index": n, **asdict(i)} for n, i in enumerate(result.instances) if i.accepted != i.valid]
    return detail
