"""The requests by which the stack and vLLM alone are compared: the same prompts, guides and numbers for both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from llm_policy.guidance.backends.names import LLGUIDANCE, XGRAMMAR
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.compile.worker import GuideWorker
from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.load import Workload
from llmstack.bench.prompt import build_prompt
from llmstack.client.ensemble_client import Inputs

_NUM_WARM_UPS = 4


class RowPlan(NamedTuple):
    """One row of the comparison: `concurrency` clients in a closed loop send `num_requests` requests."""

    is_guided: bool
    concurrency: int
    num_requests: int
    is_streamed: bool = False

    @property
    def name(self) -> str:
        """A short name, unique in the plan."""
        kind = f"{'streamed-' if self.is_streamed else ''}{'guided' if self.is_guided else 'unguided'}"
        return f"{kind}-{self.concurrency}x{self.num_requests}"


class ComparisonPlan(NamedTuple):
    """The rows. Token numbers are limits for each request; `schema_id` is the schema of the guided ones."""

    rows: list[RowPlan]
    prompt_tokens: int
    completion_tokens: int
    schema_id: str

    @property
    def warm_ups(self) -> list[RowPlan]:
        """A small row of each kind, to send first."""
        kinds = dict.fromkeys(row.is_guided for row in self.rows)
        return [RowPlan(is_guided, _NUM_WARM_UPS, _NUM_WARM_UPS) for is_guided in kinds]


class PlannedPrompts:
    """The prompts of a plan. No two of them begin with the same block of tokens: an engine may keep prefixes."""

    def __init__(self, release: Release, plan: ComparisonPlan) -> None:
        self._tokenizer = Tokenizer.load(release.tokenizer_dir)
        self._text = build_prompt(self._tokenizer, plan.prompt_tokens).text
        self._plan = plan

    def workload(self, row: RowPlan, max_tokens: int | None = None) -> Workload:
        """The row's requests for the stack: greedy. `max_tokens` is by default the plan's."""

        def inputs_of(number: int) -> Inputs:
            inputs = {"text_input": self._prompt(row, number), "max_tokens": max_tokens or self._plan.completion_tokens}
            more = {"schema_id": self._plan.schema_id} if row.is_guided else {}
            return {**inputs, **more, "temperature": 0.0}

        return Workload(inputs_of, row.is_guided, row.concurrency, row.num_requests)

    def token_ids(self, row: RowPlan) -> Iterator[list[int]]:
        """The row's prompts for an engine."""
        for number in range(row.num_requests):
            yield self._tokenizer.encode_text(self._prompt(row, number)).tolist()

    @property
    def end_id(self) -> int:
        """The token that ends a completion."""
        return self._tokenizer.eos_id

    def _prompt(self, row: RowPlan, number: int) -> str:
        return f"{row.name}-{number}. {self._text}"


def plan_rows(concurrency_requests: list[tuple[int, int]]) -> list[RowPlan]:
    """Unguided rows, then guided ones."""
    return [RowPlan(is_guided, *numbers) for is_guided in (False, True) for numbers in concurrency_requests]


def planned_guide(release: Release, schema_id: str) -> dict[str, Any]:
    """What the policy hands to the engine for a schema of the release: backend, kind and text.

    Raises:
        ValueError: the policy rejects the schema.
    """
    manifest = release.manifest
    backends = [LLGUIDANCE, XGRAMMAR] if manifest.guidance.backend == "auto" else [manifest.guidance.backend]
    worker = GuideWorker(Vocabulary.read(release.tokenizer_info_path), manifest.guidance, backends)
    schema = (release.directory / manifest.schemas[schema_id]).read_text(encoding="utf-8")
    report = worker.report("json_schema", schema, is_registered=True)
    if report.code:
        raise ValueError(f"{schema_id}: {report.code}: {report.detail}")
    return {"backend": report.backend, "kind": report.engine_type, "text": report.engine_text}
