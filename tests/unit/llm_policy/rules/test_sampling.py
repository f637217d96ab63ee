"""Sampling: the task's defaults, overridden by the client within fixed ranges."""

import numpy as np
import pytest

from llm_policy.errors import Code, InvalidRequest
from llm_policy.release.manifest import Task
from llm_policy.rules.sampling import MIN_TEMPERATURE, RANGES, Sampling, choose_sampling

JUDGE = Task(temperature=0.1, top_p=0.9)
GREEDY = Task(temperature=0.0)


def test_temperature_zero_reaches_the_engine_as_temperature_one_top_k_one_and_top_p_one():
    assert choose_sampling(GREEDY, {}) == Sampling(temperature=1.0, top_k=1, top_p=1.0)


def test_the_judge_task_uses_its_own_temperature_and_top_p():
    sampling = choose_sampling(JUDGE, {})
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.1, 0, 0.9)


def test_without_task_and_overrides_a_request_is_greedy():
    assert choose_sampling(None, {}).top_k == 1


def test_a_client_overrides_the_task():
    sampling = choose_sampling(JUDGE, {"temperature": 0.7, "top_k": 40, "seed": 9, "min_tokens": 2})
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 40, 0.9)
    assert (sampling.seed, sampling.min_tokens) == (9, 2)


def test_sampling_without_top_p_passes_an_explicit_default():
    assert choose_sampling(None, {"temperature": 0.5}).top_p == 1.0


def test_temperature_zero_overrides_the_clients_top_k():
    assert choose_sampling(GREEDY, {"top_k": 50}).top_k == 1


def test_a_client_overrides_the_tasks_top_p():
    assert choose_sampling(JUDGE, {"top_p": 0.5}).top_p == 0.5


@pytest.mark.parametrize("task", [GREEDY, JUDGE])
def test_penalties_min_tokens_and_seed_reach_the_engine_at_any_temperature(task):
    overrides = {
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "min_tokens": 4,
        "seed": 5,
    }
    assert choose_sampling(task, overrides)[3:] == (1.1, 0.2, 0.3, 4, 5)


def test_penalties_min_tokens_and_seed_that_the_client_did_not_send_keep_the_engines_default():
    assert choose_sampling(JUDGE, {})[3:] == (None, None, None, None, None)


@pytest.mark.parametrize("name", ["top_p", "repetition_penalty", "temperature"])
def test_a_minimum_that_was_rounded_to_fp32_is_allowed(name):
    minimum = MIN_TEMPERATURE if name == "temperature" else RANGES[name].low
    rounded = float(np.float32(minimum))
    assert rounded < minimum
    sampling = choose_sampling(None, {"temperature": 0.5, name: rounded})
    assert getattr(sampling, name) == rounded
    with pytest.raises(InvalidRequest):
        choose_sampling(None, {"temperature": 0.5, name: float(np.nextafter(np.float32(rounded), np.float32(0)))})


def test_the_lowest_temperature_above_zero_is_allowed():
    assert choose_sampling(None, {"temperature": 0.01}) == Sampling(temperature=0.01, top_k=0, top_p=1.0)


LIMITS = [
    ("temperature", 2.0),
    ("top_p", 1e-6),
    ("top_p", 1.0),
    ("top_k", 0),
    ("top_k", 1024),
    ("repetition_penalty", 0.01),
    ("repetition_penalty", 10.0),
    ("presence_penalty", -2.0),
    ("presence_penalty", 2.0),
    ("frequency_penalty", -2.0),
    ("frequency_penalty", 2.0),
    ("min_tokens", 0),
    ("min_tokens", 1_000_000),
]


@pytest.mark.parametrize(("name", "value"), LIMITS)
def test_the_limits_of_a_range_belong_to_it(name, value):
    assert getattr(choose_sampling(JUDGE, {name: value}), name) == value


OUT_OF_RANGE = [
    ("temperature", float("nan"), "temperature is nan, allowed 0 to 2"),
    ("temperature", float("inf"), "temperature is inf, allowed 0 to 2"),
    ("temperature", -0.1, "temperature is -0.1, allowed 0 to 2"),
    ("temperature", 2.01, "temperature is 2.01, allowed 0 to 2"),
    ("temperature", 2.5, "temperature is 2.5, allowed 0 to 2"),
    ("temperature", 1e-9, "temperature is 1e-09, allowed 0 or 0.01 to 2"),
    ("temperature", 0.0099, "temperature is 0.0099, allowed 0 or 0.01 to 2"),
    ("top_p", 0.0, "top_p is 0, allowed 1e-06 to 1"),
    ("top_p", 9e-7, "top_p is 9e-07, allowed 1e-06 to 1"),
    ("top_p", 1.01, "top_p is 1.01, allowed 1e-06 to 1"),
    ("top_k", -1, "top_k is -1, allowed 0 to 1024"),
    ("top_k", 1025, "top_k is 1025, allowed 0 to 1024"),
    ("repetition_penalty", 0.0, "repetition_penalty is 0, allowed 0.01 to 10"),
    ("repetition_penalty", 0.0099, "repetition_penalty is 0.0099, allowed 0.01 to 10"),
    ("repetition_penalty", 10.01, "repetition_penalty is 10.01, allowed 0.01 to 10"),
    ("presence_penalty", -2.01, "presence_penalty is -2.01, allowed -2 to 2"),
    ("presence_penalty", 2.01, "presence_penalty is 2.01, allowed -2 to 2"),
    ("presence_penalty", 3.0, "presence_penalty is 3, allowed -2 to 2"),
    ("frequency_penalty", -2.01, "frequency_penalty is -2.01, allowed -2 to 2"),
    ("frequency_penalty", 2.01, "frequency_penalty is 2.01, allowed -2 to 2"),
    ("frequency_penalty", float("-inf"), "frequency_penalty is -inf, allowed -2 to 2"),
    ("min_tokens", -1, "min_tokens is -1, allowed 0 to 1000000"),
    ("min_tokens", 2_000_000, "min_tokens is 2000000, allowed 0 to 1000000"),
]


@pytest.mark.parametrize(("name", "value", "detail"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_rejected_with_range_and_value(name, value, detail):
    with pytest.raises(InvalidRequest) as caught:
        choose_sampling(JUDGE, {name: value})
    assert caught.value.code is Code.INVALID_INPUT
    assert str(caught.value) == f"invalid_input: {detail}"


def test_min_tokens_just_over_its_limit_is_rejected():
    with pytest.raises(InvalidRequest, match=r"^invalid_input: min_tokens is 1000001, allowed 0 to 1000000$"):
        choose_sampling(JUDGE, {"min_tokens": 1_000_001})
