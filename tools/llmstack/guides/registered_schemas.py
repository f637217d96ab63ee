"""Finds a release's registered schemas that its server would reject, which keep it from loading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.compile.worker import GuideWorker
from llm_policy.release.manifest import Guidance
from llmstack.guides.child_process import ChildProcess, NoAnswer

_SCHEMA_SECONDS = 60.0


def find_rejected_schemas(
    info_path: Path, guidance: Guidance, schemas: dict[str, str], backends: Sequence[str]
) -> dict[str, str]:
    """The reason for each schema of `schemas` (name → text) that none of `backends` takes; empty when all are taken.

    A child process compiles them with the vocabulary of tokenizer_info.json, as a crash ends the compiling process.
    """
    rejected = {}
    child: ChildProcess[str, str]
    with ChildProcess(_reporter, info_path, guidance.model_dump_json(), tuple(backends)) as child:
        for name, text in schemas.items():
            try:
                reason = child.ask(text, _SCHEMA_SECONDS)
            except NoAnswer as failure:
                reason = f"compiling it ends with a {failure.code}"
            if reason:
                rejected[name] = reason
    return rejected


def _reporter(info_path: Path, guidance_json: str, backends: Sequence[str]) -> Callable[[str], str]:
    guidance = Guidance.model_validate_json(guidance_json)
    try:
        worker = GuideWorker(Vocabulary.read(info_path), guidance, backends)
    except Exception as error:  # the libraries raise what they like
        finding = f"{backends[0]} can't load the tokenizer: {error}"
        return lambda text: finding

    def reason(text: str) -> str:
        report = worker.report("json_schema", text, is_registered=True)
        return f"{report.code}: {report.detail}" if report.code else ""

    return reason
