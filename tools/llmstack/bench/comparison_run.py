"""A run of the comparison between the stack on vLLM and vLLM alone, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from llm_policy.release.release import Release
from llmstack.bench.comparison_plan import ComparisonPlan, PlannedPrompts, RowPlan
from llmstack.bench.machine import describe_machine
from llmstack.bench.plans import PARTS as PARTS
from llmstack.bench.served_stack import ServedStack
from llmstack.bench.stub_kill import measure_stub_kill
from llmstack.bench.vllm_comparison import (
    ComparisonRecord,
    alone_plan,
    measure_alone,
    measure_stack_rows,
    measure_streams,
)
from llmstack.client.ensemble_client import release_headers

_KILLED_MODEL = "preprocess"
_KILL_COMPLETION_TOKENS = 16  # so that a good answer comes soon
_KILL_REQUESTS = 10_000  # only the prompts' numbers


class ComparisonRun(NamedTuple):
    """One run. `kill_concurrency` is the number of clients while a stub is killed."""

    release: Release
    plan: ComparisonPlan
    record: ComparisonRecord
    engine: str
    options: Mapping[str, str]
    state_dir: Path
    start_timeout_s: float
    kill_concurrency: int = 16

    def measure(self, parts: list[str]) -> None:
        """Measure these parts.

        Raises:
            ServerStartError, LoadError, AloneError: a part failed; the results before it are written.
        """
        prompts = PlannedPrompts(self.release, self.plan)
        self._describe()
        if {"stack", "stream", "kill"} & set(parts):
            with self._stack() as stack:
                self.record.put(start_s=round(stack.start_s, 1), engine_process=stack.readiness().get("engine_process"))
                if "stack" in parts:
                    for row in measure_stack_rows(stack, self.release, self.plan, prompts):
                        self.record.add("stack", row._asdict())
                if "stream" in parts:
                    for streamed in measure_streams(stack, self.release, self.plan, prompts):
                        self.record.add("stream", streamed._asdict())
                if "kill" in parts:
                    self._measure_kill(stack, prompts)
        if "alone" in parts:
            for result in measure_alone(alone_plan(self.release, self.plan, prompts, self.options), self.state_dir):
                if "start_s" in result:
                    self.record.put(alone_start_s=result["start_s"], versions=result["versions"])
                else:
                    self.record.add("alone", result)
        if "restart" in parts:
            with self._stack() as stack:
                self.record.put(restart_s=round(stack.start_s, 1))

    def _stack(self) -> ServedStack:
        return ServedStack(self.release.directory, self.engine, self.state_dir, self.options, self.start_timeout_s)

    def _measure_kill(self, stack: ServedStack, prompts: PlannedPrompts) -> None:
        row = RowPlan(False, self.kill_concurrency, _KILL_REQUESTS)
        workload = prompts.workload(row, _KILL_COMPLETION_TOKENS)
        kill = measure_stub_kill(stack, release_headers(self.release), workload, _KILLED_MODEL)
        self.record.put(kill=kill._asdict())

    def _describe(self) -> None:
        engine = self.release.manifest.engine
        self.record.put(
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            machine=describe_machine(),
            release={
                "model": engine.model,
                "engine_hash": engine.hash,
                "max_batch_size": engine.max_batch_size,
                "guide_backend": self.release.manifest.guidance.backend,
            },
            engine=self.engine,
            options=dict(self.options),
            sizes={"prompt_tokens": self.plan.prompt_tokens, "completion_tokens": self.plan.completion_tokens},
            schema_id=self.plan.schema_id,
        )
