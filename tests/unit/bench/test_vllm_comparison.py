"""The comparison of the stack on vLLM with vLLM alone: its rows, prompts and record."""

import json
import sys

import pytest

from llm_policy.release.release import Release
from llmstack.bench.comparison_plan import ComparisonPlan, PlannedPrompts, RowPlan, plan_rows, planned_guide
from llmstack.bench.vllm_comparison import ComparisonRecord, alone_plan, compare, compare_streams, measure_alone
from llmstack.paths import DEFAULT_RELEASE_DIR, PROJECT_ROOT
from llmstack.server.engine_process import ENGINE_PYTHON

PLAN = ComparisonPlan(plan_rows([(1, 2), (2, 4)]), prompt_tokens=32, completion_tokens=8, schema_id="order")
STACK = {
    "guided": False,
    "concurrency": 1,
    "tokens_per_s": 97.0,
    "ttft_ms_p50": 50.0,
    "latency_ms_p50": 900.0,
    "outside_engine_ms_p50": 4.0,
    "policy_share": 0.01,
    "queue_delay_us_p50": 1_000,
    "queue_delay_us_p99": None,
    "queue_delay_us_max": 2_000,
}
ALONE = {"guided": False, "concurrency": 1, "tokens_per_s": 100.0, "ttft_ms_p50": 52.0, "latency_ms_p50": 890.0}
STREAM = {
    "guided": False,
    "concurrency": 1,
    "tokens_per_s": 97.0,
    "ttft_ms_p50": 55.5,
    "first_token_outside_engine_ms_p50": 1.5,
    "inter_token_ms_p50": 14.28,
    "latency_ms_p50": 900.0,
}
# At the start of the engine's Python: vLLM's modules are the stand-in's.
STAND_IN = f"""
import copy, sys
sys.path.append({str(PROJECT_ROOT)!r})
import pytest
from tests.unit.engine_process.engines import vllm_stand_in
vllm_stand_in.install(pytest.MonkeyPatch())
sys.modules["vllm"].SamplingParams = parameters = sys.modules["vllm.sampling_params"].SamplingParams
parameters.clone = copy.copy
"""


@pytest.fixture(scope="module")
def release() -> Release:
    return Release.open(DEFAULT_RELEASE_DIR)


def test_a_row_is_compared_with_vllms_own_of_the_same_kind_and_concurrency():
    (row,) = compare([STACK, {**STACK, "guided": True}], [ALONE, {**ALONE, "concurrency": 4}])
    assert (row["tokens_per_s_ratio"], row["first_token_later_ms"], row["latency_later_ms"]) == (0.97, 2.0, 10.0)


def test_streams_are_compared_as_the_consumers_of_both_see_their_tokens():
    alone = {**ALONE, "inter_token_ms_p50": 14.0, "first_token_outside_engine_ms_p50": 1.0}
    (row,) = compare_streams([STREAM, {**STREAM, "guided": True}], [alone])
    assert (row["first_token_later_ms"], row["inter_token_ratio"], row["latency_later_ms"]) == (3.5, 1.02, 10.0)
    assert (row["first_token_outside_engine_ms_p50"], row["outside_engine_later_ms"]) == (1.5, 0.5)


def test_a_row_of_vllm_alone_without_times_between_tokens_is_compared_with_no_stream():
    assert compare_streams([STREAM], [ALONE]) == []


def test_streams_are_recorded_beside_the_rows_of_the_ensemble(tmp_path):
    record = ComparisonRecord(tmp_path / "record.json")
    for part, row in (("stack", STACK), ("stream", STREAM), ("alone", {**ALONE, "inter_token_ms_p50": 14.0})):
        record.add(part, row)
    assert len(record.content["comparison"]) == len(record.content["streaming_comparison"]) == 1


def test_an_interrupted_record_is_continued_and_a_row_that_is_measured_again_replaced(tmp_path):
    path = tmp_path / "out" / "record.json"
    ComparisonRecord(path).add("stack", STACK)
    record = ComparisonRecord(path)
    record.add("stack", {**STACK, "tokens_per_s": 50.0})
    record.add("alone", ALONE)
    content = json.loads(path.read_bytes())
    assert [row["tokens_per_s"] for row in content["stack"]] == [50.0]
    assert content["comparison"][0]["tokens_per_s_ratio"] == 0.5


def test_a_streamed_row_has_prompts_of_its_own(release):
    prompts = PlannedPrompts(release, PLAN)
    row = PLAN.rows[0]
    (plain, _), (streamed, _) = prompts.token_ids(row), prompts.token_ids(row._replace(is_streamed=True))
    assert plain[:16] != streamed[:16]


def test_no_two_prompts_of_a_plan_begin_with_the_same_16_tokens(release):
    prompts = PlannedPrompts(release, PLAN)
    ids = [ids for row in [*PLAN.warm_ups, *PLAN.rows] for ids in prompts.token_ids(row)]
    assert len({tuple(prompt[:16]) for prompt in ids}) == len(ids) == 4 + 4 + 2 * (2 + 4)


def test_vllm_alone_gets_the_guide_and_the_prompts_of_the_stack(release):
    pytest.importorskip("llguidance")
    prompts = PlannedPrompts(release, PLAN)
    plan = alone_plan(release, PLAN, prompts, {"load_format": "dummy"})
    assert plan["guide"] == planned_guide(release, "order")
    assert plan["options"] == {"load_format": "dummy"}
    assert [len(row["prompts"]) for row in plan["rows"]] == [2, 4, 2, 4]
    text = prompts.workload(RowPlan(True, 1, 2)).inputs_of(1)["text_input"]
    assert plan["rows"][2]["prompts"][1] == [int(token) for token in prompts._tokenizer.encode_text(text)]


def test_vllm_alone_runs_in_the_engines_python_and_says_when_its_tokens_come(release, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(STAND_IN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(ENGINE_PYTHON, str(python))
    plan = alone_plan(release, PLAN, PlannedPrompts(release, PLAN), {})
    start, *rows = measure_alone(plan, tmp_path / "state")
    assert start["start_s"] >= 0
    assert [(row["guided"], row["concurrency"], row["num_requests"]) for row in rows] == [
        (False, 1, 2),
        (False, 2, 4),
        (True, 1, 2),
        (True, 2, 4),
    ]
    assert rows[0]["completion_tokens"] == PLAN.completion_tokens
    assert all(row["inter_token_ms_p50"] <= row["inter_token_ms_p99"] for row in rows)
