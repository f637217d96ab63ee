"""Asks the policy, in a child process, what it hands out for guides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.release.manifest import Guidance
from llm_policy.release.release import Release
from llmstack.guides.admission import Admission, AdmittedGuide, Refused
from llmstack.guides.child_process import ChildProcess, NoAnswer

GUIDE_SECONDS = 60.0
"""Wall-clock limit for one guide."""

Guide = tuple[str, str]
"""Type and text."""


def admit_guides(release: Release, backend: str, guides: Sequence[Guide]) -> Iterator[AdmittedGuide | Refused]:
    """The admission or refusal of each guide, in order; the code is `timeout` or `crash` if the child fails."""
    arguments = (release.tokenizer_info_path, release.manifest.guidance.model_dump_json(), backend)
    child: ChildProcess[Guide, AdmittedGuide | Refused]
    with ChildProcess(_admission, *arguments) as child:
        for guide in guides:
            try:
                yield child.ask(guide, GUIDE_SECONDS)
            except NoAnswer as failure:  # noqa: PERF203 - each guide may fail
                yield Refused(failure.code)


def _admission(info_path: Path, guidance_json: str, backend: str) -> Callable[[Guide], AdmittedGuide | Refused]:
    admission = Admission(Vocabulary.read(info_path), Guidance.model_validate_json(guidance_json), [backend])

    def admit(guide: Guide) -> AdmittedGuide | Refused:
        try:
            return admission.admit(*guide)
        except Refused as refusal:
            return refusal

    return admit
