"""The engine's side of the protocol, over its real socket."""

import asyncio
import socket
import sqlite3
import threading
from contextlib import closing, contextmanager

import pytest

from engine_process import socket_path
from engine_process.client import EngineClient, read_stats
from engine_process.engine import Clocks, EngineDied, EngineFailure, Step
from engine_process.messages import (
    PROTOCOL_VERSION,
    Abort,
    Capabilities,
    End,
    Generate,
    Hello,
    Refused,
    Started,
    Stats,
    StatsRequest,
    Tokens,
    Welcome,
    encode,
    read_engine_message,
    read_ids,
    write_ids,
)
from tests.running_engine import HASH, running_engine

HELLO = Hello(PROTOCOL_VERSION, HASH, "boot")


class ScriptedEngine:
    """Generates 1, 2, 3, …; the first prompt token says how.

    1: up to the limit. 2: it fails. 3: the engine dies. 4: it hangs after two tokens. 5: a bug.
    """

    handles_sequences = False
    schedules_tenants = False

    def __init__(self):
        self.closed = threading.Semaphore(0)  # released once for each request that ended

    async def load(self, settings):
        return Capabilities(settings.max_batch_size, 100, 50, ["regex"])

    async def generate(self, request, arrival_ns):
        try:
            for number in range(1, request.max_tokens + 1):
                await asyncio.sleep(0)
                how = request.prompt_token_ids[0]
                if how == 2:
                    raise EngineFailure("schema_invalid", "does not compile")
                if how == 3:
                    raise EngineDied("a kernel failed")
                if how == 4 and number == 3:
                    await asyncio.Event().wait()
                if how == 5:
                    raise ZeroDivisionError("a secret")
                clocks = Clocks(arrival_ns + 1_000_000, arrival_ns + 2_000_000, arrival_ns + 3_000_000)
                yield Step([number], [-0.5], clocks, "length" if number == request.max_tokens else None)
        finally:
            self.closed.release()

    def last_step_ns(self):
        return 0

    async def close(self):
        pass


@contextmanager
def serving(tmp_path, **arguments):
    engine = ScriptedEngine()
    with running_engine(engine, tmp_path, tmp_path, **arguments) as running:
        yield engine, running


def talk(tmp_path, *messages, until=End, hello=HELLO, on_tokens=None):
    """What the engine answers to these messages, up to the first message of the type `until`.

    At the first `Tokens`, `on_tokens` is sent, or called.
    """

    async def run():
        reader, writer = await asyncio.open_unix_connection(sock=socket_path.connect(tmp_path))
        writer.write(b"".join(map(encode, (hello, *messages))))
        answers, then = [], on_tokens
        while not answers or not isinstance(answers[-1], until):
            answers.append(await read_engine_message(reader))
            if then is not None and isinstance(answers[-1], Tokens):
                then() if callable(then) else writer.write(encode(then))
                then = None
        writer.close()
        return answers

    return asyncio.run(asyncio.wait_for(run(), 30))


def generate(how=1, max_tokens=3, request_id=7, **arguments):
    return Generate(request_id, write_ids([how]), max_tokens, **arguments)


def test_the_engine_says_who_it_is_and_what_it_can(tmp_path):
    with serving(tmp_path):
        (welcome,) = talk(tmp_path, until=Welcome)
    assert (welcome.engine_hash, welcome.kind, welcome.quantisation) == (HASH, "test", "w4a8")
    assert welcome.capabilities == Capabilities(4, 100, 50, ["regex"])


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(PROTOCOL_VERSION + 1, HASH), "protocol version 2, this engine process speaks 1"),
        (Hello(PROTOCOL_VERSION, "sha256:other"), f"the engine's hash is {HASH}, not sha256:other"),
    ],
)
def test_a_client_of_another_version_or_engine_is_refused(tmp_path, hello, reason):
    with serving(tmp_path):
        assert talk(tmp_path, hello=hello, until=Refused) == [Refused(reason)]


def test_a_request_gets_its_tokens_and_one_end_with_its_counts_and_clocks(tmp_path):
    with serving(tmp_path):
        _, tokens, end = talk(tmp_path, generate(log_probs=True))
    assert read_ids(tokens.ids) == [1, 2, 3]
    assert (end.reason, end.num_input_tokens, end.num_output_tokens, end.cum_log_prob) == ("length", 1, 3, -1.5)
    assert (end.first_scheduled_ns - end.arrival_ns, end.last_token_ns - end.arrival_ns) == (1_000_000, 3_000_000)


def test_a_streamed_request_gets_each_token_by_itself(tmp_path):
    with serving(tmp_path):
        _, started, *tokens, _ = talk(tmp_path, generate(stream=True))
    assert started == Started(7, 1_000)
    assert [read_ids(each.ids) for each in tokens] == [[1], [2], [3]]


def test_a_stop_sequence_ends_the_request_in_the_engine(tmp_path):
    with serving(tmp_path) as (engine, _):
        _, tokens, end = talk(tmp_path, generate(max_tokens=90, stop_sequences=[[2, 3]]))
        assert engine.closed.acquire(timeout=30)
    assert (read_ids(tokens.ids), end.reason) == ([1, 2, 3], "stop")


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [(2, "schema_invalid", "does not compile"), (5, "internal", "the engine failed")],
)
def test_a_failed_request_has_its_code_and_no_detail_of_a_fault(tmp_path, how, code, text):
    with serving(tmp_path):
        *_, end = talk(tmp_path, generate(how))
    assert (end.reason, end.code, end.text) == ("error", code, text)


def test_an_engine_that_dies_ends_its_process(tmp_path):
    with serving(tmp_path) as (_, running):
        *_, end = talk(tmp_path, generate(3))
    assert (end.code, running.server.has_died) == ("engine_unavailable", True)


def test_an_aborted_request_is_closed_in_the_engine(tmp_path):
    with serving(tmp_path) as (engine, _):
        *_, end = talk(tmp_path, generate(4, 90, stream=True), on_tokens=Abort(7))
        assert engine.closed.acquire(timeout=30)
    assert (end.reason, end.code) == ("cancelled", "")


def test_a_request_that_is_aborted_before_it_begins_has_its_end(tmp_path):
    with serving(tmp_path):
        _, end = talk(tmp_path, generate(4, 90), Abort(7))
    assert (end.reason, end.num_output_tokens) == ("cancelled", 0)


def test_a_connection_that_closes_ends_its_requests(tmp_path):
    with serving(tmp_path) as (engine, _):
        talk(tmp_path, generate(4, 90, stream=True), until=Tokens)
        assert engine.closed.acquire(timeout=30)


def test_a_request_whose_time_is_up_ends_with_the_tokens_that_it_has(tmp_path):
    with serving(tmp_path, max_answer_s=0.05):
        _, tokens, end = talk(tmp_path, generate(4, 90))
    assert (read_ids(tokens.ids), end.reason, end.num_output_tokens) == ([1, 2], "deadline", 2)
    assert end.last_token_ns - end.arrival_ns >= 50_000_000


def test_a_request_that_never_ran_has_every_clock_at_its_deadline(tmp_path):
    with serving(tmp_path, max_batch_size=1):
        waiting = generate(1, request_id=8, timeout_us=1_000)
        *_, end = talk(tmp_path, generate(4, 90), waiting)
    assert (end.id, end.reason, end.num_output_tokens) == (8, "deadline", 0)
    assert end.arrival_ns < end.first_scheduled_ns == end.first_token_ns == end.last_token_ns


def test_the_queue_is_bounded(tmp_path):
    with serving(tmp_path, max_batch_size=1, max_waiting=1):
        requests = [generate(4, 90, request_id=number) for number in range(3)]
        *_, end = talk(tmp_path, *requests)
    assert (end.id, end.code) == (2, "overloaded")


def test_the_statistics_count_running_and_waiting_requests_and_the_clients(tmp_path):
    with serving(tmp_path, max_batch_size=1):
        requests = [generate(4, 90, request_id=number, stream=True) for number in range(3)]
        *_, stats = talk(tmp_path, *requests, until=Stats, on_tokens=StatsRequest())
    assert (stats.running, stats.waiting, stats.boot_ids) == (1, 2, ["boot"])
    assert stats.last_step_age_s >= 0


def test_a_request_in_flight_is_answered_when_the_process_stops(tmp_path):
    with serving(tmp_path) as (_, running):
        *_, end = talk(tmp_path, generate(4, 90, stream=True), on_tokens=running.stop_soon)
    assert (end.code, end.text) == ("draining", "the engine is stopping")


def test_the_tokens_of_a_row_are_noted_for_the_ledger(tmp_path):
    with serving(tmp_path):
        talk(tmp_path, generate(ledger_id=12))
    with closing(sqlite3.connect(tmp_path / "engine_usage.db")) as connection:
        assert connection.execute("SELECT boot_id, ledger_id, num_completion_tokens FROM row_usage").fetchall() == [
            ("boot", 12, 3)
        ]


def test_a_connection_that_does_not_speak_the_protocol_is_closed(tmp_path):
    with serving(tmp_path):
        connection = socket_path.connect(tmp_path)
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connection.settimeout(30)
        assert connection.recv(1) == b""
        connection.close()
        assert isinstance(talk(tmp_path, until=Welcome)[0], Welcome)


def test_only_this_user_can_open_the_socket(tmp_path):
    listener = socket_path.listen(tmp_path)
    assert (tmp_path / socket_path.SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    listener.close()


def test_a_socket_in_a_deep_directory_can_be_opened(tmp_path):
    directory = tmp_path.joinpath(*["deep" * 10] * 6)
    directory.mkdir(parents=True)
    listener = socket_path.listen(directory)
    assert isinstance(socket_path.connect(directory), socket.socket)
    listener.close()


class Recorder:
    def __init__(self):
        self.end = asyncio.get_running_loop().create_future()

    def on_tokens(self, tokens):
        pass

    def on_end(self, end):
        self.end.set_result(end)


def test_a_client_answers_at_once_without_an_engine_and_connects_when_there_is_one(tmp_path):
    async def run():
        client = EngineClient(tmp_path, HELLO, lambda line: None)
        running = asyncio.create_task(client.run())
        absent = Recorder()
        await asyncio.sleep(0)  # the client runs
        client.generate(generate(), absent)
        assert (await absent.end).code == "engine_unavailable"
        with serving(tmp_path):
            while client.welcome is None:
                await asyncio.sleep(0.01)
            first, lost = Recorder(), Recorder()
            client.generate(generate(), first)
            assert (await first.end).num_output_tokens == 3
            client.generate(generate(4, 90), lost)
            await asyncio.sleep(0)
        assert (await lost.end).code in ("draining", "engine_unavailable")
        running.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_listener_that_fails_loses_its_request_and_nobody_else_does(tmp_path):
    class Failing(Recorder):
        def on_tokens(self, tokens):
            raise OSError("no space left")

    async def run():
        lines = []
        client = EngineClient(tmp_path, HELLO, lines.append)
        running = asyncio.create_task(client.run())
        with serving(tmp_path):
            while client.welcome is None:
                await asyncio.sleep(0.01)
            failing, other = Failing(), Recorder()
            client.generate(generate(1, 3, stream=True), failing)
            client.generate(generate(1, 3, stream=True), other)
            assert ((await failing.end).code, (await other.end).num_output_tokens) == ("internal", 3)
            assert client.welcome is not None
            assert lines == ["tokens can't be taken: OSError"]
            running.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_statistics_of_another_engine_are_an_error(tmp_path):
    with serving(tmp_path), pytest.raises(OSError, match="not sha256:other"):
        asyncio.run(read_stats(tmp_path, Hello(PROTOCOL_VERSION, "sha256:other")))
