"""The embedded model does its tasks through the whole stack, in all prompt formats of its training."""

import json

import pytest
from typer.testing import CliRunner

from embedded_model.cli.app import app
from embedded_model.evaluation.run import Evaluation, EvaluationSettings
from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llmstack.client.ensemble_client import send_generate, send_grpc, send_infer
from llmstack.paths import DEFAULT_RELEASE_DIR

COUNT = 20
# Below the evaluation's results by what twenty prompts can't resolve.
MINIMUM_SCORES = {
    "generate_json": {"schema_valid": 1.0, "field_accuracy": 0.85, "exact": 0.7},
    "rank_candidates": {"schema_valid": 1.0, "top1": 0.9, "full_order": 0.85},
    "judge": {"schema_valid": 1.0, "verdict": 0.9},
}
README = (DEFAULT_RELEASE_DIR.parents[1] / "README.md").read_text()
# The README's three examples.
ORDER = "Ada Lovelace placed order ORD-4711. The customer wants 5 of the lamp. The status is packed. It is not a gift."
PAYMENT = (
    "Evidence: On 2026-11-02 Ada Lovelace paid 311.84 dollars in Leeds.",
    "Claim: Ada Lovelace paid 371.84 dollars in Leeds on 2026-11-02.",
)
PRICES = "Rank by price, cheapest first.\n- A: lamp, 30 dollars\n- B: chair, 150 dollars\n- C: pen, 2 dollars"


@pytest.fixture(scope="module")
def headers(server):
    engine = Release.open(server.release_dir).manifest.engine
    return {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_held_out_prompts_reach_the_minimum_scores(server):
    settings = EvaluationSettings(COUNT, 0, seed=7, concurrency=4)
    report = Evaluation(server, Release.open(server.release_dir), settings).run(is_out_of_distribution=False)
    for task, minimum_scores in MINIMUM_SCORES.items():
        assert report[task]["unguided"].keys() == report[task]["guided"].keys()
        for name, minimum in minimum_scores.items():
            assert report[task]["guided"][name] >= minimum, (task, name, report[task])


@pytest.mark.slow
def test_evaluate_prints_scores_by_task_and_guidance_as_json(server):
    url = f"--url={server.http_url}"
    printed = CliRunner().invoke(app, ["evaluate", url, "--count", "1", "--out-of-distribution", "1", "--json"])
    assert printed.exit_code == 0, printed.output
    report = json.loads(printed.stdout)
    assert report["run"]["engine_hash"] == Release.open(server.release_dir).manifest.engine.hash
    for results in (report, report["out_of_distribution"]):
        assert results["generate_json"]["guided"].keys() == {"schema_valid", "exact", "field_accuracy"}
        assert results["rank_candidates"]["unguided"].keys() == {"schema_valid", "exact", "top1", "full_order"}
        assert results["judge"]["guided"].keys() == {"schema_valid", "exact", "verdict"}
        kinds = [scores for task in MINIMUM_SCORES for scores in results[task].values()]
        assert all(0 <= score <= 1 for scores in kinds for score in scores.values())


def test_the_readmes_generate_json_example_has_the_stated_answer(server, headers):
    messages = json.dumps([{"role": "user", "content": ORDER}])
    answer = send_infer(server, {"messages": messages, "task": "generate_json"}, headers).first("text_output")
    assert ORDER in README
    assert f"# text_output: {answer}\n" in README
    assert json.loads(answer)["customer"] == "Ada Lovelace"


def test_the_readmes_judge_example_has_the_stated_answer(server, headers):
    inputs = {"text_input": "\n".join(PAYMENT), "task": "judge"}
    answer = send_generate(server, inputs, headers).first("text_output")
    assert r"\\n".join(PAYMENT) in README
    assert f"# text_output: {answer}\n" in README
    assert json.loads(answer)["failing_criterion"] == "amount"


def test_the_readmes_rank_candidates_example_has_the_stated_answer(server, headers):
    answer = send_grpc(server, {"text_input": PRICES, "task": "rank_candidates"}, headers).first("text_output")
    assert PRICES in README
    assert answer in README
    assert json.loads(answer)["ranking"] == ["C", "A", "B"]
