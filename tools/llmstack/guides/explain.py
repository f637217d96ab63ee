"""What the engine gets for a guide, and what is known about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

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
        "summary": summary(report.backend, guide.unenforced, guide.narrowed, is_open=_is_open(kind, text)),
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


def summary(
    backend: str, unenforced: Sequence[KeywordFinding], narrowed: Sequence[KeywordFinding], *, is_open: bool
) -> str:
    """One sentence: who takes the guide, whether it is enforced in full, and what a client loses.

    `is_open`: the guide is a schema with an object that may have properties beside the declared ones.
    """
    losses = []
    if unenforced:
        losses.append(f"not enforced: {_unique(finding.keyword for finding in unenforced)}")
    if narrowed:
        losses.append(f"narrower than written: {_unique(finding.keyword for finding in narrowed)}")
    if is_open:
        losses.append("answers have no undeclared properties")
    extent = "in part" if unenforced else "in full"
    return f"Taken by {backend} and enforced {extent}" + "".join(f"; {loss}" for loss in losses) + "."


def _is_open(kind: str, text: str) -> bool:
    return kind == "json_schema" and any(_open_objects(json.loads(text)))


def _open_objects(schema: object) -> Iterator[bool]:
    """For every part of a schema: whether it declares properties and says nothing of others."""
    if isinstance(schema, dict):
        yield isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if isinstance(schema, dict | list):
        for part in schema.values() if isinstance(schema, dict) else schema:
            yield from _open_objects(part)


def _unique(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _written(findings: Iterable[KeywordFinding]) -> list[dict[str, str]]:
    return [{"pointer": f.pointer, "keyword": f.keyword, "reason": f.reason} for f in findings]
