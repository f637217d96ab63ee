"""The steady load beside a guided row, with a tiny model and a stand-in for the grammars."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import torch

from llmstack.bench.beside import NUM_WARM_UP_STEPS, BesideBench, BesideMeasurement
from llmstack.bench.steady_load import SteadyLoad
from portable_engine.failure import Failure
from portable_engine.sequence import FinishReason
from tests.unit.portable_engine.tiny_qwen3 import mask_nothing, tiny_model

LETTERS = {"a": 40, "b": 41, '"': 50}
NUM_STEPS = 100


class EndsAfter:
    """A matcher that ends its output after some tokens, or fails."""

    def __init__(self, num_tokens: int, failure: Failure | None) -> None:
        self.accepted: list[int] = []
        self._num_tokens = num_tokens
        self._failure = failure

    @property
    def failure(self) -> Failure | None:
        return self._failure if self.is_terminated() else None

    def accept_token(self, token_id: int) -> bool:
        self.accepted.append(token_id)
        return self._failure is None or not self.is_terminated()

    def is_terminated(self) -> bool:
        return len(self.accepted) >= self._num_tokens


class StandInGrammars:
    """Every guide ends after `num_tokens` tokens. Token 300 and above do not exist."""

    def __init__(self, num_tokens: int = 1_000, failure: Failure | None = None) -> None:
        self.matchers: list[EndsAfter] = []
        self.guided_rows: list[int] = []
        self._num_tokens = num_tokens
        self._failure = failure

    def compile(self, guide_type: str, guide: str) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result((guide_type, guide))
        return future

    def matcher(self, grammar: Any, end_id: int) -> EndsAfter:
        self.matchers.append(EndsAfter(self._num_tokens, self._failure))
        return self.matchers[-1]

    def mask_logits(self, logits: torch.Tensor, matchers: list[Any]) -> None:
        self.guided_rows.append(sum(matcher is not None for matcher in matchers))


def measure(grammars: StandInGrammars) -> BesideMeasurement:
    return BesideBench(tiny_model(), grammars, LETTERS, num_rows=2, num_steps=NUM_STEPS).measure("regex", "a*")


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def test_speeds_and_their_ratio_are_positive() -> None:
    measured = measure(StandInGrammars())
    assert measured.without_tokens_per_s > 0
    assert measured.ratio == measured.with_tokens_per_s / measured.without_tokens_per_s


def test_one_row_of_the_second_load_is_guided() -> None:
    grammars = StandInGrammars()
    measure(grammars)
    assert max(grammars.guided_rows) == 1


def test_the_guided_row_writes_letters_then_punctuation_then_what_the_model_prefers() -> None:
    grammars = StandInGrammars()
    measure(grammars)
    letters, punctuation, own = (set(matcher.accepted) for matcher in grammars.matchers)
    assert letters == {LETTERS["a"], LETTERS["b"]}
    assert punctuation == {LETTERS['"']}
    assert not own & set(LETTERS.values())


def test_a_new_row_follows_a_guide_that_ends_soon() -> None:
    grammars = StandInGrammars(num_tokens=1)
    measure(grammars)
    assert len(grammars.matchers) == (NUM_WARM_UP_STEPS + NUM_STEPS) // 2


def test_a_guide_that_lost_its_place_does_not_come_back() -> None:
    grammars = StandInGrammars(num_tokens=5, failure=Failure("schema_too_complex", "masks are slow"))
    assert measure(grammars).lost_place == "masks are slow"
    assert len(grammars.matchers) == 1


def test_the_steady_rows_go_on_beside_a_row_that_ends() -> None:
    load = SteadyLoad(tiny_model(), mask_nothing, num_rows=2, num_steps=10)
    load.add_beside(None, 3)
    row = load.row_beside
    for _ in range(10):
        load.step()
    assert row is not None
    assert row.finish_reason is FinishReason.LENGTH
    assert load.row_beside is None
