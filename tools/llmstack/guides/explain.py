"""What the engine gets for a guide, and what is known about it."""

from __future__ import annotations

from llm_policy.errors import Code, create_error
from llm_policy.release.guide_limits import GuideLimits
from llm_policy.release.release import Release


def explain_guide(kind: str, text: str, release: Release) -> dict[str, object]:
    """Plan and compile a guide with the tokenizer and the limits of `release`; the result is writable as JSON.

    Raises:
        PolicyError: the release rejects the guide.
    """
    # XGrammar takes seconds to import, and only this function needs it.
    from llm_policy.guidance.compile.worker import PLANNERS, GuideWorker, schema_id

    limits: GuideLimits = release.manifest.guidance.limits
    planned = PLANNERS[kind](text, limits)
    report = GuideWorker(release.tokenizer_info_path, limits).report(kind, text)
    if report.code:
        raise create_error(Code(report.code), report.detail)
    return {
        "schema_id": schema_id(kind, planned.canonical),
        "guide_type": planned.guide_type,
        "guide": planned.guide,
        "num_rules": planned.num_rules,
        "num_bytes": planned.num_bytes,
        "compile_ms": round(report.compile_ms, 3),
        "unenforced": [{"pointer": f.pointer, "keyword": f.keyword, "reason": f.reason} for f in planned.unenforced],
        "narrowed": [{"pointer": f.pointer, "keyword": f.keyword, "reason": f.reason} for f in planned.narrowed],
    }
