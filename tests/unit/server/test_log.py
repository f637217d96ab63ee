"""The errors in the server's log, its rotation and its relay."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

from llmstack.server.log import LogRelay, failure_reasons, is_harmless, rotate_log

NO_GPU = """\
W1123 13:10:25.081957 10311 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory pool \
will not be available: CUDA driver version is insufficient for CUDA runtime version"
I1123 13:10:25.082028 10311 cuda_memory_manager.cc:117] "CUDA memory pool disabled"
E1123 13:10:25.082102 10311 server.cc:241] "CudaDriverHelper has not been initialized."
Error: Failed to initialize NVML
W1123 13:10:25.373408 10311 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
"""
LOAD_FAILURE = r"""
E1123 13:10:25.369005 10319 pb_stub.cc:298] "ERROR: Failed to create instance: ReleaseError: engine.hash: on disk"
I1123 13:10:25.369005 10319 pb_stub.cc:298]  Failed to initialize Python stub: ReleaseError: engine.hash: on disk

At:
  /srv/model_repository/preprocess/1/model.py(4): <module>

E1123 13:10:25.372182 10311 model_lifecycle.cc:642] "failed to load 'preprocess' version 1: Internal: ReleaseError: \
engine.hash: on disk\nsecond \"line\"\n\nAt:\n  /srv/model_repository/preprocess/1/model.py(4): <module>\n"
error: creating server: Internal - failed to load all models
"""


def test_every_message_about_a_missing_gpu_is_harmless():
    assert all(is_harmless(line) for line in NO_GPU.splitlines())


def test_other_messages_are_not_harmless():
    assert not any(is_harmless(line) for line in LOAD_FAILURE.splitlines())
    assert not is_harmless('E1123 13:10:25.372182 1 model.cc:1] "CUDA out of memory"')


def test_a_load_failure_is_reported_once_without_its_traceback():
    reason = "failed to load 'preprocess' version 1: Internal: ReleaseError: engine.hash: on disk\nsecond \"line\""
    assert failure_reasons(NO_GPU + LOAD_FAILURE.replace("\\\n", "")) == [reason]


def test_unquoted_messages_of_older_servers_are_read():
    log = "E1123 13:10:25.372182 1 model_lifecycle.cc:1] failed to load 'm'\nAt:\n  /x.py(1): <module>\n"
    assert failure_reasons(log) == ["failed to load 'm'"]


def test_without_error_entries_the_last_lines_are_reported():
    assert failure_reasons(NO_GPU + "tritonserver: GLIBC_2.35 not found\n") == ["tritonserver: GLIBC_2.35 not found"]


def test_an_empty_log_has_no_reasons():
    assert failure_reasons("") == []


def test_a_relay_shows_whole_lines_up_to_the_last(tmp_path: Path):
    log, seen = tmp_path / "log", []
    log.write_text("one\nhalf ")
    with LogRelay(log, seen.append), log.open("a") as file:
        file.write("a line\nlast\n")
    assert seen == ["one", "half a line", "last"]


class CountedPolls(threading.Event):
    """The event that a relay waits for between two looks at its log; each wait releases `waits`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()
        return super().wait(timeout)


class Relayed:
    """The lines that a relay has shown, and its polls."""

    def __init__(self, log: Path) -> None:
        self._shown: Queue[str] = Queue()
        self.relay = LogRelay(log, self._shown.put)
        self._polls = self.relay._closing = CountedPolls()

    def next_line(self) -> str:
        return self._shown.get(timeout=20)

    def await_poll(self) -> None:
        """Wait until the relay has looked at its log again: the second wait from now follows a whole look."""
        while self._polls.waits.acquire(blocking=False):
            pass
        assert all(self._polls.waits.acquire(timeout=20) for _ in range(2))


@contextmanager
def relayed(log: Path) -> Iterator[Relayed]:
    lines = Relayed(log)
    with lines.relay:
        yield lines


def test_a_short_log_is_not_rotated(tmp_path):
    log = tmp_path / "log"
    log.write_text("12345")
    assert not rotate_log(log, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_long_log_is_copied_and_truncated(tmp_path):
    log = tmp_path / "log"
    for number in range(6):
        log.write_text(f"text {number}")
        assert rotate_log(log, 5)
        assert log.read_text() == ""
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"log": "", "log.1": "text 5", "log.2": "text 4", "log.3": "text 3"}


def test_a_deleted_log_is_not_rotated(tmp_path):
    assert not rotate_log(tmp_path / "log", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_relay_follows_a_deleted_log(tmp_path):
    log = tmp_path / "log"
    log.touch()
    with log.open("ab", buffering=0) as writer, relayed(log) as lines:
        writer.write(b"one\n")
        assert lines.next_line() == "one"
        log.unlink()
        lines.await_poll()
        writer.write(b"two\n")
        assert lines.next_line() == "two"


def test_a_writer_keeps_writing_to_the_rotated_log(tmp_path):
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"before\n")
        rotate_log(log, 1)
        writer.write(b"after\n")
    assert (log.read_text(), (tmp_path / "log.1").read_text()) == ("after\n", "before\n")


def test_a_relay_follows_a_truncated_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("one\n")
    with relayed(log) as lines:
        assert lines.next_line() == "one"
        rotate_log(log, 1)
        lines.await_poll()  # so that it sees the empty file
        log.write_text("two\n")
        assert lines.next_line() == "two"
