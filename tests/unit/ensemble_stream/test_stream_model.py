"""`ensemble_stream` in the stub, before a scripted engine: every stream ends with one response, after its row."""

import asyncio
import gc
import json
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine_process.engine import Clocks, EngineDied, EngineFailure, EngineSettings, Step
from engine_process.messages import Capabilities, Generate
from llm_policy.guidance.compile import compile_queue
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.triton.tensors import STREAM_OUTPUTS
from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.guide_types import GUIDE_TYPES
from tests import pb_utils
from tests.pb_utils import Answer, StreamRequest
from tests.running_engine import running_engine
from tests.unit.llm_policy.triton.policy_models import RELEASE, TOKENIZER, ledger_rows, request

pytest.importorskip("xgrammar")  # of the guide compiler
NAMES = [spec.name for spec in STREAM_OUTPUTS]
TIMEOUT_S = 30.0
TEXT = "one two three"
IDS = TOKENIZER.encode_text(TEXT).tolist()


class ScriptedEngine:
    """Generates what `script` yields; `is_cancelled` tells that a request was aborted."""

    handles_sequences = False
    schedules_tenants = True

    def __init__(self) -> None:
        self.script: Callable[[Generate], AsyncGenerator[Step, None]] = steps
        self.num_aborted = 0

    async def load(self, settings: EngineSettings) -> Capabilities:
        return Capabilities(4, 0, 0, list(GUIDE_TYPES))

    async def generate(self, request: Generate, arrival_ns: int) -> AsyncGenerator[Step, None]:
        try:
            async for step in self.script(request):
                yield step
        except (GeneratorExit, asyncio.CancelledError):
            self.num_aborted += 1
            raise

    def last_step_ns(self) -> int:
        return time.monotonic_ns()

    async def close(self) -> None:
        pass


def clocks() -> Clocks:
    now = time.monotonic_ns()
    return Clocks(now, now, now)


async def steps(request: Generate) -> AsyncGenerator[Step, None]:
    for token_id in IDS:
        yield Step([token_id], None, clocks())
        await asyncio.sleep(0.005)
    yield Step([TOKENIZER.eos_id], None, clocks(), "stop")


async def never_ends(request: Generate) -> AsyncGenerator[Step, None]:
    yield Step([IDS[0]], None, clocks())
    await asyncio.Event().wait()


async def sends_no_token(request: Generate) -> AsyncGenerator[Step, None]:
    yield Step([-1], None, clocks())
    await asyncio.Event().wait()


async def fails(request: Generate) -> AsyncGenerator[Step, None]:
    yield Step([IDS[0]], None, clocks())
    raise EngineFailure("overloaded", "no memory")


async def dies(request: Generate) -> AsyncGenerator[Step, None]:
    yield Step([IDS[0]], None, clocks())
    raise EngineDied("out of memory")


class StubbornRequest(StreamRequest):
    """A request whose responses can't be sent."""

    def receive(self, response: Any, *, is_final: bool) -> None:
        super().receive(response, is_final=is_final)
        raise pb_utils.TritonModelException("the client is gone")


@pytest.fixture(scope="module")
def models() -> Iterator[SimpleNamespace]:
    with pb_utils.installed("ensemble_stream.triton.stream_model") as (module,):
        yield SimpleNamespace(stream_model=module)


@contextmanager
def started(models: SimpleNamespace, state_dir: Path) -> Iterator[SimpleNamespace]:
    engine = ScriptedEngine()
    with running_engine(engine, state_dir, DEFAULT_RELEASE_DIR, engine_hash=RELEASE.manifest.engine.hash):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLMSTACK_RELEASE_DIR", str(DEFAULT_RELEASE_DIR))
            patch.setenv("LLMSTACK_STATE_DIR", str(state_dir))
            patch.setenv("LLMSTACK_BOOT_ID", "boot-1")
            patch.setattr(compile_queue, "CACHE_WAIT_S", 0.0)  # no preprocess compiles the schemas here
            model = models.stream_model.StreamModel()
            model.initialize({})
            yield SimpleNamespace(model=model, engine=engine, state_dir=state_dir)
            model.finalize()
        gc.unfreeze()


@pytest.fixture(scope="module")
def shared(models, tmp_path_factory) -> Iterator[SimpleNamespace]:
    with started(models, tmp_path_factory.mktemp("state")) as live:
        yield live


def with_guides_of(live: SimpleNamespace, state_dir: Path) -> Path:
    """Copy the compiled guides: without them, the start of each model would compile the registered schemas."""
    for path in live.state_dir.glob("guides.db*"):  # the database and its write-ahead log
        shutil.copy(path, state_dir)
    return state_dir


@pytest.fixture
def live(shared) -> SimpleNamespace:
    shared.engine.script = steps
    return shared


def stream_request(request_id: str, inputs: dict[str, Any] | None = None, kind: Any = StreamRequest, **headers: Any):
    plain = request(request_id, inputs, **headers)
    arrays = {tensor.name(): tensor.as_numpy() for tensor in plain.inputs()}
    return kind(arrays, NAMES, request_id, plain.parameters().encode())


def stream(live, request_id: str, inputs: dict[str, Any] | None = None, **headers: str) -> list[Answer]:
    """The answers to one request."""
    sent = stream_request(request_id, inputs, **headers)
    live.model.execute([sent])
    return list(sent.all_answers())


def text(answers: list[Answer]) -> str:
    return "".join(answer.outputs["text_output"][0, 0].decode() for answer in answers)


def state(live, request_id: str) -> tuple[str, str, int]:
    (row,) = ledger_rows(live.state_dir, request_id)
    return row["state"], row["code"], row["num_completion_tokens"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_answer_comes_in_pieces_and_its_row_is_settled(live):
    answers = stream(live, "pieces")
    assert text(answers) == TEXT
    assert len(answers) > 2
    assert [bool(answer.outputs["is_last"][0, 0]) for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1].outputs["finish_reason"][0, 0] == b"stop"
    assert state(live, "pieces") == ("settled", "", len(IDS))


def test_only_the_last_piece_has_what_is_known_at_the_end(live):
    first, *_, last = stream(live, "outputs")
    assert set(first.outputs) == {"text_output", "num_output_tokens", "is_last"}
    assert set(last.outputs) == set(NAMES) - {"cum_log_probs", "output_log_probs"}


def test_a_client_that_wants_one_response_gets_one(live):
    (answer,) = stream(live, "one", {"stream": False})
    assert text([answer]) == TEXT


def test_a_stop_word_ends_the_answer_without_a_letter_of_it(live):
    answers = stream(live, "stop", {"stop_words": " three"})
    assert text(answers) == "one two"


def test_a_rejected_request_has_one_response(live):
    (answer,) = stream(live, "rejected", {"task": "poetry"})
    assert (answer.error or "").startswith("unknown_task: ")
    assert state(live, "rejected") == ("refused", "unknown_task", 0)


def test_a_request_of_several_rows_is_refused(live):
    (answer,) = stream(live, "two-rows", {"text_input": ["one", "two"]})
    assert answer.error == "invalid_input: the batch has 2 rows, a stream has 1"


def test_a_guide_is_compiled_before_the_stream_begins(live):
    inputs = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[a-z]{1,7}"}
    assert text(stream(live, "guided", inputs)) == TEXT
    (answer,) = stream(live, "bad-guide", {**inputs, "guided_decoding_guide": "("})
    assert (answer.error or "").startswith("schema_invalid: ")


def test_a_cancelled_stream_aborts_the_engines_work_and_pays_for_it(live):
    live.engine.script = never_ends
    before = live.engine.num_aborted
    sent = stream_request("cancelled")
    live.model.execute([sent])
    wait_until(lambda: len(sent.answers) == 1)
    sent.cancel()
    *_, last = sent.all_answers()
    assert (last.status, live.engine.num_aborted) == ("CANCELLED", before + 1)
    assert state(live, "cancelled") == ("cancelled", "cancelled", 1)


def test_a_fault_in_mid_stream_is_the_last_response(live):
    live.engine.script = fails
    *_, last = stream(live, "fails")
    assert (last.error, last.status) == ("overloaded: no memory", "UNAVAILABLE")
    assert state(live, "fails") == ("cancelled", "overloaded", 1)


def test_an_id_that_is_no_token_ends_the_stream_and_the_engines_work(live):
    live.engine.script = sends_no_token
    before = live.engine.num_aborted
    (answer,) = stream(live, "no-token")
    assert (answer.error or "").startswith("internal: ")
    assert state(live, "no-token") == ("cancelled", "internal", 1)
    wait_until(lambda: live.engine.num_aborted == before + 1)


def test_a_response_that_can_not_be_sent_leaves_the_books_right(live, capfd):
    sent = stream_request("gone", kind=StubbornRequest)
    live.model.execute([sent])
    sent.all_answers()
    wait_until(lambda: state(live, "gone")[0] == "settled")
    assert "a response can't be sent: TritonModelException" in capfd.readouterr().err


def test_an_answer_that_can_not_be_recorded_is_withheld(live):
    live.engine.script = never_ends
    sent = stream_request("locked")
    live.model.execute([sent])
    wait_until(lambda: len(sent.answers) == 1)
    with closing(open_database(live.state_dir / FILE_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")  # for longer than a writer waits
        sent.cancel()
        *_, last = sent.all_answers()
        other.execute("ROLLBACK")
    assert (last.error or "").startswith("ledger_unavailable: ")
    wait_until(lambda: state(live, "locked")[0] == "refused")


def test_the_log_has_a_line_for_each_stream(live, capfd):
    stream(live, "logged")
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == "logged"]
    assert (line["outcome"], line["num_completion_tokens"], line["finish_reason"]) == ("settled", len(IDS), "stop")


def test_an_engine_that_dies_ends_the_stream_with_engine_unavailable_and_later_ones_at_once(models, shared, tmp_path):
    with started(models, with_guides_of(shared, tmp_path)) as own:
        own.engine.script = dies
        *_, last = stream(own, "dies")
        assert (last.error or "").startswith("engine_unavailable: ")
        assert state(own, "dies") == ("cancelled", "engine_unavailable", 1)
        wait_until(lambda: own.model._client.welcome is None)
        (answer,) = stream(own, "later")
        assert (answer.error or "").startswith("engine_unavailable: ")
        assert state(own, "later")[0] == "refused"


def test_a_model_that_is_unloaded_ends_its_streams(models, shared, tmp_path):
    with started(models, with_guides_of(shared, tmp_path)) as own:
        own.engine.script = never_ends
        sent = stream_request("unloaded")
        own.model.execute([sent])
        wait_until(lambda: len(sent.answers) == 1)
    *_, last = sent.all_answers()
    assert (last.error or "").startswith("draining: ")
    assert state(own, "unloaded") == ("cancelled", "draining", 1)
