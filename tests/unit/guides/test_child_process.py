"""The child process of measurements."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from llmstack.guides.child_process import ChildProcess, NoAnswer

PATIENCE_S = 60.0


def make_answerer(offset: int) -> Callable[[str], int]:
    """Answers texts of numbers; `die` and `hang` are what they say."""

    def answer(question: str) -> int:
        if question == "die":
            os._exit(1)
        if question == "hang":
            threading.Event().wait()
        return int(question) + offset

    return answer


@pytest.fixture
def child() -> Iterator[ChildProcess[str, int]]:
    with ChildProcess[str, int](make_answerer, 1) as child:
        yield child


def test_one_process_answers_every_question(child: ChildProcess[str, int]) -> None:
    assert [child.ask(question, PATIENCE_S) for question in ("1", "2")] == [2, 3]


@pytest.mark.parametrize(("question", "timeout_s", "code"), [("die", PATIENCE_S, "crash"), ("hang", 0.1, "timeout")])
def test_a_process_that_does_not_answer_is_replaced(
    child: ChildProcess[str, int], question: str, timeout_s: float, code: str
) -> None:
    with pytest.raises(NoAnswer) as failure:
        child.ask(question, timeout_s)
    assert failure.value.code == code
    assert child.ask("1", PATIENCE_S) == 2
