"""On a GPU: graphs give the tokens of plain steps, and what fails fails alone. `make test-gpu` runs these."""

import pytest
import torch

from portable_engine.attention import GROUPED
from portable_engine.batcher import InFlightBatcher
from portable_engine.decode_graph import CUDA_GRAPHS
from portable_engine.loader import tune
from portable_engine.sequence import Finish
from tests.unit.portable_engine.tiny_qwen3 import make_model, no_mask, run, sequence

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

PROMPTS = [[5, 9, 11], [3] * 20, list(range(40, 90)), [250]]


@pytest.fixture(scope="module")
def model():
    """In float64, so that another order of additions chooses no other token."""
    model = make_model(max_position_embeddings=8_192).to("cuda", torch.float64)
    model.set_attn_implementation(GROUPED)
    return tune(model)


class Even:
    """A matcher that allows even tokens."""

    def accept_token(self, token_id):
        return token_id % 2 == 0

    def is_terminated(self):
        return False


def mask(logits, matchers):
    for row, matcher in enumerate(matchers):
        if matcher is not None:
            logits[row, 1::2] = -torch.inf


def batchers(model, monkeypatch, size=4, mask=no_mask):
    """One that replays graphs and one that does not."""
    graphs = InFlightBatcher(model, size, mask)
    monkeypatch.setenv(CUDA_GRAPHS, "0")
    plain = InFlightBatcher(model, size, mask)
    assert graphs._graph is not None
    assert plain._graph is None
    return graphs, plain


def test_graphs_give_the_tokens_of_plain_steps(model, monkeypatch):
    graphs, plain = batchers(model, monkeypatch)
    assert run(*map(sequence, PROMPTS), engine=graphs) == run(*map(sequence, PROMPTS), engine=plain)


def test_a_sequence_that_outgrows_a_graph_goes_on_in_the_next(model, monkeypatch):
    graphs, plain = batchers(model, monkeypatch, 2)
    long, short = [3, 8] * 1_020, [5, 9]
    expected = run(sequence(long, 30), sequence(short, 60), engine=plain)
    assert run(sequence(long, 30), sequence(short, 60), engine=graphs) == expected
    assert set(graphs._graph._captured) == {1_024, 2_048, 4_096}
    assert run(sequence(short, 60), engine=graphs)[0] == expected[1]


def test_growth_in_the_midst_of_a_completion_changes_none_of_its_tokens(model, monkeypatch):
    graphs, plain = batchers(model, monkeypatch, 2)
    expected = run(sequence([5, 9], 40), engine=plain)[0]
    first = sequence([5, 9], 40)
    graphs.add(first)
    for _ in range(10):
        graphs.step()
    run(sequence([6], 3_000), engine=graphs)
    assert first.completion_token_ids == expected


def test_guided_and_drawn_rows_decode_beside_free_ones(model, monkeypatch):
    graphs, plain = batchers(model, monkeypatch, mask=mask)
    drawn = {"top_k": 0, "top_p": 0.9, "temperature": 0.7, "seed": 3}

    def rows():
        bound = sequence([5, 9], 20)
        bound.matcher = Even()
        return bound, sequence([5, 9], 20), sequence([6], 20, sampling=drawn)

    tokens = run(*rows(), engine=graphs)
    assert tokens == run(*rows(), engine=plain)
    assert not any(token % 2 for token in tokens[0])


@pytest.mark.parametrize("sampling", [{}, {"top_k": 0, "top_p": 0.9, "temperature": 0.5}])
def test_a_row_without_a_token_to_choose_fails_alone(model, sampling):
    engine = InFlightBatcher(model, 4, mask)
    alone = run(sequence([70], 10), engine=engine)[0]
    dead = sequence([70], 10, bad_words=tuple((token,) for token in range(0, 300, 2)), sampling=sampling)
    dead.matcher = Even()
    assert run(sequence([70], 10), dead, engine=engine)[0] == alone
    assert dead.finish is Finish.DEAD_END
    torch.cuda.synchronize()  # an assertion on the device would surface here


def test_memory_that_runs_out_fails_the_request_that_asked_for_it(model):
    engine = InFlightBatcher(model, 4, no_mask)
    alone = run(sequence([5], 8), engine=engine)[0]
    huge = sequence([6], 1 << 34)
    assert run(sequence([5], 8), huge, engine=engine)[0] == alone
    assert huge.finish is Finish.NO_MEMORY
    assert run(sequence([5], 8), engine=engine)[0] == alone
