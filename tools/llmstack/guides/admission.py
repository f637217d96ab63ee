"""What the policy hands out for a client's new guide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from llm_policy.errors import Code
from llm_policy.guidance.backends.guide_backend import PlannedGuide
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.compile.compile_queue import GRACE_MS
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.compile.worker import GuideWorker
from llm_policy.release.manifest import Guidance


class Refused(Exception):
    """The guide is not accepted; `code` is an error code, or `compile_error` of a library without the policy."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class AdmittedGuide:
    """An accepted guide."""

    report: GuideReport
    guide: PlannedGuide
    admit_ms: float
    """Processor time of the whole work on it: every plan that was tried, compiled and probed."""


class Admission:
    """The policy's worker, with the time limit that the server sets it."""

    def __init__(self, vocabulary: Vocabulary, guidance: Guidance, backends: Sequence[str]) -> None:
        """Takes seconds for a vocabulary of 150,000."""
        self._worker = GuideWorker(vocabulary, guidance, backends)
        self._limit_ms = guidance.max_compile_ms + GRACE_MS

    def admit(self, kind: str, text: str) -> AdmittedGuide:
        """The first plan that the engine can bear.

        Raises:
            Refused: there is none.
        """
        began = time.process_time()
        report, guide = self._worker.first_accepted(kind, text)
        admit_ms = 1000 * (time.process_time() - began)
        if guide is None:
            raise Refused(report.code, report.detail)
        if admit_ms > self._limit_ms:  # the server kills the worker then
            detail = f"guide took {admit_ms:.0f} ms in total, limit {self._limit_ms} ms"
            raise Refused(Code.SCHEMA_TOO_COMPLEX.value, detail)
        return AdmittedGuide(report, guide, admit_ms)
