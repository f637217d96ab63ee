"""What a client gets of an engine's steps: no end token, nothing behind a stop sequence."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_process.completion import Completion
from engine_process.engine import Step
from engine_process.messages import Generate, write_ids

END = 9


def request(*stop_sequences):
    return Generate(1, write_ids([1]), 100, stop_sequences=[list(stop) for stop in stop_sequences], end_id=END)


def feed(completion, *steps):
    """All tokens that the client gets."""
    tokens = []
    for step in steps:
        tokens += completion.add(step)[0]
        if completion.finish_reason:
            break
    return tokens


def test_the_end_token_ends_the_completion_and_is_not_in_it():
    completion = Completion(request(), finds_stops=True)
    assert feed(completion, Step([1, 2]), Step([END], finish_reason="stop")) == [1, 2]
    assert (completion.finish_reason, completion.num_tokens) == ("stop", 2)


def test_the_log_probability_of_the_end_token_counts_in_the_sum_alone():
    completion = Completion(request(), finds_stops=True)
    assert completion.add(Step([1, END], [-0.5, -0.25])) == ([1], [-0.5])
    assert completion.cum_log_prob == -0.75


def test_a_stop_sequence_over_several_steps_is_found_and_included():
    completion = Completion(request((3, 4)), finds_stops=True)
    assert feed(completion, Step([1, 3]), Step([4, 5]), Step([6])) == [1, 3, 4]
    assert completion.finish_reason == "stop"


def test_an_engine_that_finds_stop_sequences_itself_is_believed():
    completion = Completion(request((3, 4)), finds_stops=False)
    assert feed(completion, Step([3, 4, 5], finish_reason="length")) == [3, 4, 5]
    assert completion.finish_reason == "length"


@given(
    tokens=st.lists(st.integers(1, 3), max_size=20),
    stops=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), max_size=3),
    cuts=st.lists(st.integers(0, 20)),
)
def test_the_cut_of_the_steps_changes_nothing(tokens, stops, cuts):
    whole = Completion(request(*stops), finds_stops=True)
    expected = feed(whole, Step(tokens, finish_reason="length"))
    borders = sorted({0, len(tokens), *(cut for cut in cuts if cut <= len(tokens))})
    steps = [Step(tokens[a:b]) for a, b in pairwise(borders)]
    cut = Completion(request(*stops), finds_stops=True)
    assert feed(cut, *steps, Step([], finish_reason="length")) == expected
    assert cut.finish_reason == whole.finish_reason


@pytest.mark.parametrize("stops", [[[1]], [[2, 1], [1]]])
def test_the_first_match_ends_the_completion(stops):
    assert feed(Completion(request(*stops), finds_stops=True), Step([2, 1, 1])) == [2, 1]


@pytest.mark.parametrize("token_ids", [[1, 2], [1, END]])
def test_each_token_has_its_log_probability(token_ids):
    with pytest.raises(ValueError, match="2 tokens have 1 log-probabilities"):
        Completion(request(), finds_stops=True).add(Step(token_ids, [-0.5]))
