"""Hostile guides against a live server under a steady load of valid requests."""

import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from llm_policy.guidance.compile.compile_queue import NUM_WORKERS
from llm_policy.metrics.exposition import exposition
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.process import TritonServer
from tests.hostile_guides import decode_hostile_guides, hostile_guides
from tests.integration.client import Client

MAX_STUB_MIB = 400
MAX_WORKER_MIB = 4_096
CONCURRENCY = 4

pytestmark = [pytest.mark.server, pytest.mark.slow]


def write_release(directory, **guidance):
    """The embedded release without its limit of new guides per minute."""
    shutil.copytree(DEFAULT_RELEASE_DIR, directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["guidance"] |= {"max_adhoc_per_minute": 100_000, **guidance}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


@pytest.fixture(scope="module")
def guide_server(tmp_path_factory):
    with TritonServer(write_release(tmp_path_factory.mktemp("release") / "open"), engine="echo") as server:
        yield server


@pytest.fixture(scope="module")
def outcome(guide_server):
    """(stubs before, responses to valid requests, responses to hostile guides)."""
    return outcome_of(guide_server, hostile_guides(), max_tokens=4)


@pytest.fixture(scope="module", params=["llguidance", "xgrammar"])
def decoding_server(request, tmp_path_factory):
    """A server whose engine obeys the guides, by each backend."""
    release = write_release(tmp_path_factory.mktemp("release") / "open", backend=request.param)
    with TritonServer(release, engine="embedded") as server:
        yield server


@pytest.fixture(scope="module")
def decoded(decoding_server):
    """The same for the guides that slow down decoding, with completions that reach late positions."""
    return outcome_of(decoding_server, decode_hostile_guides(), max_tokens=96)


def outcome_of(server, guides, max_tokens):
    """Send all guides under a steady load of valid requests."""
    before = stubs(server)
    valid, stop = [], threading.Event()

    def steady_load():
        client = Client(server, "grpc")
        while not stop.is_set():
            valid.append(client.send({"text_input": "Ada ordered 5 lamps.", "schema_id": "order", "max_tokens": 8}))

    load = threading.Thread(target=steady_load)
    load.start()
    try:
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            answers = list(pool.map(lambda guide: send(server, guide, max_tokens), guides))
    finally:
        stop.set()
        load.join()
    return before, valid, answers


def send(server, guide, max_tokens):
    kind, text = guide
    inputs = {"text_input": "hello", "max_tokens": max_tokens, "guided_decoding_guide_type": kind}
    return Client(server, "grpc").send({**inputs, "guided_decoding_guide": text})


def stubs(server):
    """model → pid of its stub."""
    children = psutil.Process(server.pid).children()
    return {c.cmdline()[1].split("/")[-3]: c.pid for c in children if "python_backend_stub" in c.name()}


def test_there_are_at_least_150_hostile_guides():
    assert len(set(hostile_guides())) >= 150


def test_there_are_at_least_60_guides_that_slow_down_decoding():
    assert len(set(decode_hostile_guides()) - set(hostile_guides())) == len(decode_hostile_guides()) >= 60


def test_each_hostile_guide_is_answered_or_rejected_with_a_declared_code(outcome):
    check_codes(outcome)


def test_each_guide_that_slows_down_decoding_is_answered_or_rejected_with_a_declared_code(decoded):
    check_codes(decoded)


def check_codes(outcome):
    _, _, answers = outcome
    undeclared = [answer.error for answer in answers if answer.error is not None and answer.code is None]
    assert undeclared == []
    assert "internal" not in Counter(answer.code for answer in answers)


def test_many_guides_that_slow_down_decoding_are_answered(decoded):
    """XGrammar has no fast masks for some of them, and a busy machine rejects more."""
    _, _, answers = decoded
    codes = Counter(answer.code or "answered" for answer in answers)
    assert codes["answered"] > len(answers) / 4, codes


def test_guides_that_slow_down_decoding_keep_nobody_from_an_answer(decoding_server, decoded):
    before, valid, _ = decoded
    assert len(valid) > 20
    assert [answer.error for answer in valid if answer.error is not None] == []
    assert stubs(decoding_server) == before


def test_most_hostile_guides_are_rejected(outcome):
    _, _, answers = outcome
    codes = Counter(answer.code for answer in answers)
    assert codes["schema_invalid"] > 50
    assert codes["schema_too_complex"] > 20


def test_all_valid_requests_are_answered(outcome):
    _, valid, _ = outcome
    assert len(valid) > 100
    assert [answer.error for answer in valid if answer.error is not None] == []


def test_no_stub_is_restarted(guide_server, outcome):
    before, _, _ = outcome
    assert stubs(guide_server) == before


def test_the_memory_of_every_process_stays_bounded(guide_server, outcome):
    for process in psutil.Process(guide_server.pid).children(recursive=True):
        is_worker = "llm_policy.guidance.compile.worker" in " ".join(process.cmdline())
        limit = MAX_WORKER_MIB if is_worker else MAX_STUB_MIB
        assert process.memory_info().rss < limit << 20


def test_no_text_of_a_guide_reaches_the_log(guide_server, outcome):
    log = guide_server.log_path.read_text(errors="replace")
    assert "Traceback" not in log
    assert "word1999" not in log


def test_no_worker_outlives_its_stub():
    """The workers must exit when their stub is killed; for them a crash is the same."""
    with TritonServer(engine="echo") as server:
        stub = psutil.Process(stubs(server)["preprocess"])
        children = stub.children(recursive=True)
        assert len(children) == NUM_WORKERS
        stub.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []


def test_an_answer_that_violates_its_schema_is_counted(guide_server):
    """The no-op engine ignores the grammar; a stop word makes its answer complete."""
    client = Client(guide_server, "grpc")
    word = client.send({"text_input": "hello", "max_tokens": 4})["text_output"][-1]
    answer = client.send({"text_input": "hello", "max_tokens": 4, "schema_id": "order", "stop_words": [word]})
    assert (answer["flags"], answer["schema_valid"]) == ("schema_violation", False)
    assert b"llm_schema_violations_total 1.0" in exposition(guide_server.state_dir)
