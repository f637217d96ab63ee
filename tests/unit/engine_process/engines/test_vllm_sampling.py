"""A request's parameters in vLLM's terms."""

from __future__ import annotations

import pytest

from engine_process.engine import EngineFailure
from engine_process.engines.vllm_sampling import (
    BAD_SEQUENCES_FIELD,
    MAX_BAD_SEQUENCES,
    MAX_BAD_TOKENS,
    guide_arguments,
    sampling_arguments,
)
from engine_process.messages import Generate, Guide, Sampling, write_ids
from tests.unit.engine_process.engines.vllm_stand_in import SHAPES


def request(sampling: Sampling | None = None, **fields) -> Generate:
    return Generate(1, write_ids([5]), **{"max_tokens": 8, "sampling": sampling or Sampling(), **fields})


def arguments(sampling: Sampling | None = None, **fields):
    return sampling_arguments(request(sampling, **fields))


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=0, top_p=0.0), Sampling(temperature=0.0, top_k=0, top_p=0.9)]
)
def test_greedy_is_temperature_zero_without_top_k_top_p_and_seed(sampling):
    made = arguments(sampling)

    assert made["temperature"] == 0.0
    assert not {"top_k", "top_p", "seed"} & made.keys()


def test_top_p_zero_is_off():
    made = arguments(Sampling(temperature=0.7, top_k=40, top_p=0.0))

    assert (made["temperature"], made["top_k"], made["top_p"]) == (0.7, 40, 1.0)


def test_top_k_zero_is_no_limit_beside_a_top_p():
    made = arguments(Sampling(top_k=0, top_p=0.9))

    assert (made["top_k"], made["top_p"]) == (0, 0.9)


@pytest.mark.parametrize(("seed", "given"), [(0, 0), (7, 7), ((1 << 64) - 1, (1 << 63) - 1)])
def test_every_seed_is_one_that_vllm_can_hold(seed, given):
    assert arguments(Sampling(top_k=5, seed=seed))["seed"] == given


def test_penalties_go_through():
    made = arguments(Sampling(repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=-0.5))

    assert (made["repetition_penalty"], made["presence_penalty"], made["frequency_penalty"]) == (1.1, 0.5, -0.5)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=5, temperature=2.5),
        Sampling(top_k=5, temperature=float("nan")),
        Sampling(top_k=5, top_p=1.5),
        Sampling(top_k=-2, top_p=0.5),
        Sampling(repetition_penalty=0.0),
        Sampling(presence_penalty=3.0),
        Sampling(frequency_penalty=-2.5),
    ],
)
def test_what_vllm_does_not_take_is_invalid_input(sampling):
    with pytest.raises(EngineFailure) as failure:
        arguments(sampling)

    assert failure.value.code == "invalid_input"


def test_only_end_id_ends_a_completion():
    assert arguments(end_id=9)["stop_token_ids"] == [9]
    assert arguments(end_id=-1)["stop_token_ids"] == []
    assert arguments()["ignore_eos"] is True


def test_min_tokens_is_no_more_than_max_tokens_and_not_set_beside_a_guide():
    guide = Guide("llguidance", "regex", "a")

    assert arguments(min_tokens=3)["min_tokens"] == 3
    assert arguments(min_tokens=30)["min_tokens"] == 8
    assert arguments(min_tokens=3, guide=guide)["min_tokens"] == 0


def test_log_probabilities_are_those_of_the_chosen_tokens_alone():
    assert arguments(log_probs=True)["logprobs"] == 0
    assert arguments()["logprobs"] is None


def test_bad_sequences_are_token_ids():
    assert arguments(bad_sequences=[[1], [2, 3]])[BAD_SEQUENCES_FIELD] == [[1], [2, 3]]
    assert BAD_SEQUENCES_FIELD not in arguments()


@pytest.mark.parametrize("sequences", [[[1]] * (MAX_BAD_SEQUENCES + 1), [[1] * (MAX_BAD_TOKENS + 1)]])
def test_more_bad_sequences_than_vllms_workers_hold_are_invalid_input(sequences):
    with pytest.raises(EngineFailure, match=r"bad sequences with \d+ tokens, vLLM's limits are 128 and 1024"):
        arguments(bad_sequences=sequences)


def test_the_limits_of_bad_sequences_are_vllms():
    assert SHAPES["limits of bad words"] == [MAX_BAD_SEQUENCES, MAX_BAD_TOKENS]


def test_vllm_has_every_parameter_that_is_set():
    made = arguments(Sampling(top_k=5), bad_sequences=[[1]])

    assert made.keys() <= set(SHAPES["SamplingParams"])


LARK, EBNF = 'start: "a"\n', 'root ::= "a"'


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("json", "", {"json": "{}"}),
        ("json_schema", '{"type": "null"}', {"json": '{"type": "null"}'}),
        ("regex", "a+", {"regex": "a+"}),
        ("lark_grammar", LARK, {"grammar": LARK}),
        ("ebnf_grammar", EBNF, {"grammar": EBNF}),
    ],
)
def test_each_type_of_guide_has_its_field(kind, text, expected):
    made = guide_arguments(Guide("", kind, text))

    assert made == expected
    assert made.keys() <= set(SHAPES["StructuredOutputsParams"])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("lark_grammar", EBNF),
        ("lark_grammar", 'restart: "a"'),
        ("ebnf_grammar", LARK),
        ("ebnf_grammar", '# root ::= "a"'),
        ("ebnf_grammar", '// root ::= "a"'),
    ],
)
def test_a_grammar_that_vllm_would_take_for_another_language_is_invalid(kind, text):
    with pytest.raises(EngineFailure) as failure:
        guide_arguments(Guide("", kind, text))

    assert failure.value.code == "schema_invalid"
    assert text not in failure.value.detail
