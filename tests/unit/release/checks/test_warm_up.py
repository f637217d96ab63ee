"""A warm-up sends every task and schema with prompts of exact lengths, and finds what is wrong with the answers."""

import pytest

from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.checks.warm_up import NUM_WARM, PromptError, compile_times, prompt_of, warm_up
from llmstack.release.coverage import coverage_items
from tests.unit.release.checks.fake_ensemble import answer_of

METRICS = """# TYPE llm_guide_compile_ms histogram
llm_guide_compile_ms_bucket{le="1"} 1
llm_guide_compile_ms_sum 12.5
llm_guide_compile_ms_count 3
llm_guide_compile_ms_sum{model="x"} 1.0
llm_guide_compile_ms_count{model="x"} 1
"""


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 256, 1_024])
def test_a_prompt_has_exactly_the_requested_number_of_tokens(num_tokens):
    tokenizer = Tokenizer.load(Release.open(DEFAULT_RELEASE_DIR).tokenizer_dir)
    assert len(tokenizer.encode_text(prompt_of(tokenizer, num_tokens))) == num_tokens


class OneToken(Tokenizer):
    """A tokenizer whose only texts have one token."""

    def __init__(self):
        pass

    def encode_text(self, text):
        return [0] if len(text) < 100 else [0, 0, 0]


def test_a_length_that_the_tokenizer_can_not_produce_is_an_error():
    with pytest.raises(PromptError, match="no text of 2 tokens"):
        prompt_of(OneToken(), 2)


def test_compile_times_are_summed_over_all_models():
    assert compile_times(METRICS) == {"num_guides_compiled": 4, "guide_compile_ms_total": 13.5}


# For each schema, the wrong outputs and the fault expected.
WRONG = {
    "invoice": ({"engine_hash": "sha256:0"}, "engine_hash is 'sha256:0', expected 'sha256:"),
    "order": ({"num_input_tokens": 17}, "num_input_tokens is 17, expected 16"),
    "ticket": ({"num_output_tokens": 0}, "the engine returned no token"),
    "verdict": ({"resolved_schema_id": ""}, "resolved_schema_id is '', expected 'verdict'"),
}


def test_a_warm_up_covers_every_task_and_schema_and_names_the_fault_of_each(ensemble, target):
    ensemble.answer = answer_of(target, lambda inputs: WRONG.get(inputs.get("schema_id"), ({},))[0])
    rows = warm_up(target, [16], lambda row: None)
    assert [row.what for row in rows] == [item.what for item in coverage_items(target.release)]
    assert len(ensemble.asked) == (1 + NUM_WARM) * len(rows)
    assert {row.queue_delay_us_max for row in rows} == {7}
    faults = {row.what.removeprefix("schema "): row.fault for row in rows if row.fault}
    assert faults.keys() == WRONG.keys()
    assert all(faults[name].startswith(fault) for name, (_, fault) in WRONG.items())
