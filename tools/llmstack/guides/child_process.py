"""A child process that works on one question at a time and is replaced when it takes too long or dies."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from llm_policy.guidance.compile.worker import STACK_BYTES

START_SECONDS = 120.0
"""Wall-clock limit for the child's start: it loads a vocabulary of 150,000 tokens."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class NoAnswer(Exception):
    """The child did not answer; `code` is `timeout` or `crash`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class ChildProcess(Generic[Question, Answer]):
    """Calls `make_answerer(*arguments)` once in a new process, and what it returns with every question."""

    def __init__(self, make_answerer: Callable[..., Callable[[Question], Answer]], *arguments: Any) -> None:
        """`make_answerer` must be importable by name."""
        self._make_answerer = make_answerer
        self._arguments = arguments
        self._context = multiprocessing.get_context("spawn")
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __enter__(self) -> ChildProcess[Question, Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, question: Question, timeout_s: float) -> Answer:
        """The answer.

        Raises:
            NoAnswer: the child took longer than `timeout_s`, or died; the next question starts a new one.
            RuntimeError: the child does not start.
        """
        pipe = self._pipe if self._pipe is not None else self._start()
        try:
            pipe.send(question)
            if pipe.poll(timeout_s):
                answer: Answer = pipe.recv()
                return answer
            code = "timeout"
        except (EOFError, ConnectionError):
            code = "crash"
        self._stop()
        raise NoAnswer(code)

    def _start(self) -> Connection[Any, Any]:
        self._pipe, child_end = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(child_end, self._make_answerer, self._arguments), daemon=True
        )
        self._process.start()
        child_end.close()
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError(f"the bench's child process did not start within {START_SECONDS:.0f} s")
        return self._pipe

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection[Any, Any], make_answerer: Callable[..., Callable[[Any], Any]], arguments: Any) -> None:
    """The child: answers on a thread with the stack of the policy's worker."""
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_answer_all, args=(pipe, make_answerer, arguments))
    thread.start()
    thread.join()


def _answer_all(pipe: Connection[Any, Any], make_answerer: Callable[..., Callable[[Any], Any]], arguments: Any) -> None:
    answer = make_answerer(*arguments)
    # A collection that scans the vocabulary would take milliseconds within a measured call.
    gc.collect()
    gc.freeze()
    pipe.send("ready")
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(question))
