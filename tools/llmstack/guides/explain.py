"""What the engine gets for a guide, and what is known about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_policy.errors import Code, create_error
from llm_policy.guidance.json_schema.keyword_report import KeywordFinding
from llm_policy.release.release import Release


def explain_guide(kind: str, text: str, release: Release, backends: Sequence[str]) -> dict[str, object]:
    """Plan, compile and probe a guide with the tokenizer and the limits of `release`; the result is writable as JSON.

    The result is for the first of `backends` whose form of the guide the engine can bear.

    Raises:
        PolicyError: the release rejects the guide.
    """
    # The backends take seconds to import, and only this function needs them.
    from llm_policy.guidance.backends.vocabulary import Vocabulary
    from llm_policy.guidance.compile.worker import GuideWorker

    worker = GuideWorker(Vocabulary.read(release.tokenizer_info_path), release.manifest.guidance, backends)
    report, guide = worker.first_accepted(kind, text)
    if guide is None:
        raise create_error(Code(report.code), report.detail)
    return {
        "schema_id": report.schema_id,
        "backend": report.backend,
        "guide_type": guide.engine_type,
        "guide": guide.engine_text,
        "num_rules": guide.num_rules,
        "num_bytes": guide.num_bytes,
        "compile_ms": round(report.compile_ms, 3),
        "mask_ms": round(report.mask_ms, 3),
        "unenforced": _written(guide.unenforced),
        "narrowed": _written(guide.narrowed),
    }


def _written(findings: Iterable[KeywordFinding]) -> list[dict[str, str]]:
    return [{"pointer": f.pointer, "keyword": f.keyword, "reason": f.reason} for f in findings]
