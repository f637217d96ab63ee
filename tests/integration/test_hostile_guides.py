"""Hostile guides against a live server under a steady load of good ones."""

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
from tests.hostile_guides import hostile_guides
from tests.integration import client as ensemble
from tests.integration.client import Client

# Whatever is asked, the answer comes within this; the clients' own time-out holds them to it.
ANSWER_TIMEOUT_S = 10.0
MAX_STUB_MIB = 400
MAX_CHILD_MIB = 4_096
NUM_AT_ONCE = 4


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A server that judges every guide: the embedded release without its bound on new ones in a minute."""
    release = tmp_path_factory.mktemp("release") / "open"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["guidance"]["max_adhoc_per_minute"] = 100_000
    (release / "manifest.json").write_text(json.dumps(manifest))
    with TritonServer(release, engine="echo") as server:
        yield server


@pytest.fixture(scope="module")
def outcome(own_server):
    """Send all hostile guides while good requests run: (processes before, good answers, hostile answers)."""
    before = stubs(own_server)
    good, stop = [], threading.Event()

    def steady_load():
        client = Client(own_server, "grpc")
        while not stop.is_set():
            good.append(client.send({"text_input": "Ada ordered 5 lamps.", "schema_id": "order", "max_tokens": 8}))

    load = threading.Thread(target=steady_load)
    load.start()
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        answers = list(pool.map(lambda guide: send(own_server, *guide), hostile_guides()))
    stop.set()
    load.join()
    return before, good, answers


def send(server, kind, text):
    inputs = {"text_input": "hello", "max_tokens": 4, "guided_decoding_guide_type": kind}
    return Client(server, "grpc").send({**inputs, "guided_decoding_guide": text})


def stubs(server):
    """model → pid of its stub."""
    children = psutil.Process(server.pid).children()
    return {c.cmdline()[1].split("/")[-3]: c.pid for c in children if "python_backend_stub" in c.name()}


def test_there_are_at_least_150_of_them():
    assert len(set(hostile_guides())) >= 150


@pytest.fixture(scope="module", autouse=True)
def short_timeout():
    patient, ensemble.TIMEOUT_S = ensemble.TIMEOUT_S, ANSWER_TIMEOUT_S
    yield
    ensemble.TIMEOUT_S = patient


def test_each_is_answered_or_refused_with_a_declared_code(outcome):
    _, _, answers = outcome
    undeclared = [answer.error for answer in answers if answer.error is not None and answer.code is None]
    assert undeclared == []
    assert "internal" not in Counter(answer.code for answer in answers)


def test_most_of_them_are_refused(outcome):
    _, _, answers = outcome
    codes = Counter(answer.code for answer in answers)
    assert codes["schema_invalid"] > 50
    assert codes["schema_too_complex"] > 20


def test_the_good_load_was_answered_all_along(outcome):
    _, good, _ = outcome
    assert len(good) > 100
    assert [answer.error for answer in good if answer.error is not None] == []


def test_no_stub_was_restarted(own_server, outcome):
    before, _, _ = outcome
    assert stubs(own_server) == before


def test_the_memory_of_every_process_stayed_bounded(own_server, outcome):
    for process in psutil.Process(own_server.pid).children(recursive=True):
        is_child = "llm_policy.guidance.compile.worker" in " ".join(process.cmdline())
        limit = MAX_CHILD_MIB if is_child else MAX_STUB_MIB
        assert process.memory_info().rss < limit << 20


def test_nothing_of_a_guide_reached_the_log(own_server, outcome):
    log = own_server.log_path.read_text(errors="replace")
    assert "Traceback" not in log
    assert "word1999" not in log


def test_no_child_outlives_its_stub():
    """Sandboxed children must not be left behind when a stub is killed, which is all that a crash is to them."""
    with TritonServer(engine="echo") as server:
        stub = psutil.Process(stubs(server)["preprocess"])
        children = stub.children(recursive=True)
        assert len(children) == NUM_WORKERS
        stub.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


def test_an_answer_that_breaks_its_schema_is_counted(own_server):
    """The no-op engine knows no grammar; a stop word makes its answer complete."""
    client = Client(own_server, "grpc")
    word = client.send({"text_input": "hello", "max_tokens": 4})["text_output"][-1]
    answer = client.send({"text_input": "hello", "max_tokens": 4, "schema_id": "order", "stop_words": [word]})
    assert (answer["flags"], answer["schema_valid"]) == ("schema_violation", False)
    assert b"llm_schema_violations_total 1.0" in exposition(own_server.state_dir)
