"""Decoding on a GPU: CUDA graphs generate the tokens of plain steps, and failures stay with their request.

`make test-gpu` runs these tests.
"""

import pytest
import torch

from portable_engine.attention import GROUPED
from portable_engine.batcher import InFlightBatcher
from portable_engine.decode_graph import CUDA_GRAPHS
from portable_engine.loader import optimise
from portable_engine.sequence import FinishReason
from tests.unit.portable_engine.tiny_qwen3 import (
    PROMPTS,
    EvenTokens,
    decode,
    make_model,
    make_sequence,
    mask_nothing,
    mask_odd_tokens,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def model():
    """In float64, so that a different order of additions can't change a token."""
    model = make_model(max_position_embeddings=8_192).to("cuda", torch.float64)
    model.set_attn_implementation(GROUPED)
    return optimise(model)


def make_batchers(model, monkeypatch, size=4, mask_logits=mask_nothing):
    """One batcher with graphs and one without."""
    with_graphs = InFlightBatcher(model, size, mask_logits)
    monkeypatch.setenv(CUDA_GRAPHS, "0")
    plain = InFlightBatcher(model, size, mask_logits)
    assert with_graphs._graph is not None
    assert plain._graph is None
    return with_graphs, plain


def test_graphs_generate_the_tokens_of_plain_steps(model, monkeypatch):
    with_graphs, plain = make_batchers(model, monkeypatch)
    expected = decode(*map(make_sequence, PROMPTS), batcher=plain)
    assert decode(*map(make_sequence, PROMPTS), batcher=with_graphs) == expected


def test_a_sequence_that_outgrows_a_graph_continues_in_the_next_larger_one(model, monkeypatch):
    with_graphs, plain = make_batchers(model, monkeypatch, 2)
    long, short = [3, 8] * 1_020, [5, 9]
    expected = decode(make_sequence(long, 30), make_sequence(short, 60), batcher=plain)
    assert decode(make_sequence(long, 30), make_sequence(short, 60), batcher=with_graphs) == expected
    assert set(with_graphs._graph._captured) == {1_024, 2_048, 4_096}
    assert decode(make_sequence(short, 60), batcher=with_graphs)[0] == expected[1]


def test_cache_growth_during_a_completion_does_not_change_its_tokens(model, monkeypatch):
    with_graphs, plain = make_batchers(model, monkeypatch, 2)
    expected = decode(make_sequence([5, 9], 40), batcher=plain)[0]
    first = make_sequence([5, 9], 40)
    with_graphs.add(first)
    for _ in range(10):
        with_graphs.step()
    decode(make_sequence([6], 3_000), batcher=with_graphs)
    assert first.completion_token_ids == expected


def test_guided_sampled_and_greedy_rows_decode_together(model, monkeypatch):
    with_graphs, plain = make_batchers(model, monkeypatch, mask_logits=mask_odd_tokens)
    sampling = {"top_k": 0, "top_p": 0.9, "temperature": 0.7, "seed": 3}

    def rows():
        guided = make_sequence([5, 9], 20)
        guided.matcher = EvenTokens()
        return guided, make_sequence([5, 9], 20), make_sequence([6], 20, sampling=sampling)

    tokens = decode(*rows(), batcher=with_graphs)
    assert tokens == decode(*rows(), batcher=plain)
    assert not any(token % 2 for token in tokens[0])


@pytest.mark.parametrize("sampling", [{}, {"top_k": 0, "top_p": 0.9, "temperature": 0.5}])
def test_a_row_without_an_allowed_token_fails_alone(model, sampling):
    batcher = InFlightBatcher(model, 4, mask_odd_tokens)
    alone = decode(make_sequence([70], 10), batcher=batcher)[0]
    failing = make_sequence([70], 10, bad_words=tuple((token,) for token in range(0, 300, 2)), sampling=sampling)
    failing.matcher = EvenTokens()
    assert decode(make_sequence([70], 10), failing, batcher=batcher)[0] == alone
    assert failing.finish_reason is FinishReason.NO_ALLOWED_TOKEN
    torch.cuda.synchronize()  # raises a failed device-side assertion, if any


def test_an_allocation_failure_fails_only_the_request_that_caused_it(model):
    batcher = InFlightBatcher(model, 4, mask_nothing)
    alone = decode(make_sequence([5], 8), batcher=batcher)[0]
    huge = make_sequence([6], 1 << 34)
    assert decode(make_sequence([5], 8), huge, batcher=batcher)[0] == alone
    assert huge.finish_reason is FinishReason.OUT_OF_MEMORY
    assert decode(make_sequence([5], 8), batcher=batcher)[0] == alone
