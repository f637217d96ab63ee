"""What a person sees of the server's log."""

import time
from collections.abc import Callable
from pathlib import Path

from llmstack.server.log import LogRelay, failure_reasons, is_harmless, rotate_log

NO_GPU = """\
W1123 13:10:25.081957 10311 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory pool \
will not be available: CUDA driver version is insufficient for CUDA runtime version"
I1123 13:10:25.082028 10311 cuda_memory_manager.cc:117] "CUDA memory pool disabled"
E1123 13:10:25.082102 10311 server.cc:241] "CudaDriverHelper has not been initialized."
Error: Failed to initialize NVML
W1123 13:10:25.373408 10311 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
"""
REFUSAL = r"""
E1123 13:10:25.369005 10319 pb_stub.cc:298] "ERROR: Failed to create instance: ReleaseError: engine.hash: on disk"
I1123 13:10:25.369005 10319 pb_stub.cc:298]  Failed to initialize Python stub: ReleaseError: engine.hash: on disk

At:
  /srv/model_repository/preprocess/1/model.py(4): <module>

E1123 13:10:25.372182 10311 model_lifecycle.cc:642] "failed to load 'preprocess' version 1: Internal: ReleaseError: \
engine.hash: on disk\nsecond \"line\"\n\nAt:\n  /srv/model_repository/preprocess/1/model.py(4): <module>\n"
error: creating server: Internal - failed to load all models
"""


def test_every_complaint_of_a_machine_without_gpu_is_harmless():
    assert all(is_harmless(line) for line in NO_GPU.splitlines())


def test_other_lines_are_not():
    assert not any(is_harmless(line) for line in REFUSAL.splitlines())
    assert not is_harmless('E1123 13:10:25.372182 1 model.cc:1] "CUDA out of memory"')


def test_a_refusal_to_load_is_shown_once_without_its_traceback():
    reason = "failed to load 'preprocess' version 1: Internal: ReleaseError: engine.hash: on disk\nsecond \"line\""
    assert failure_reasons(NO_GPU + REFUSAL.replace("\\\n", "")) == [reason]


def test_older_servers_quote_nothing():
    log = "E1123 13:10:25.372182 1 model_lifecycle.cc:1] failed to load 'm'\nAt:\n  /x.py(1): <module>\n"
    assert failure_reasons(log) == ["failed to load 'm'"]


def test_without_error_entries_the_last_lines_speak():
    assert failure_reasons(NO_GPU + "tritonserver: GLIBC_2.35 not found\n") == ["tritonserver: GLIBC_2.35 not found"]


def test_an_empty_log_has_no_reasons():
    assert failure_reasons("") == []


def test_a_relay_hands_on_whole_lines_up_to_the_last(tmp_path: Path):
    log, seen = tmp_path / "log", []
    log.write_text("one\nhalf ")
    with LogRelay(log, seen.append), log.open("a") as file:
        file.write("a line\nlast\n")
    assert seen == ["one", "half a line", "last"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_log_within_its_bound_is_left_alone(tmp_path):
    log = tmp_path / "log"
    log.write_text("12345")
    assert not rotate_log(log, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_log_beyond_its_bound_is_copied_and_cut(tmp_path):
    log = tmp_path / "log"
    for number in range(6):
        log.write_text(f"turn {number}")
        assert rotate_log(log, 5)
        assert log.read_text() == ""
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"log": "", "log.1": "turn 5", "log.2": "turn 4", "log.3": "turn 3"}


def test_a_log_that_somebody_took_away_needs_no_cut(tmp_path):
    assert not rotate_log(tmp_path / "log", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_relay_goes_on_when_somebody_took_the_log_away(tmp_path):
    log, shown = tmp_path / "log", []
    log.touch()
    with log.open("ab", buffering=0) as writer, LogRelay(log, shown.append):
        writer.write(b"one\n")
        wait_until(lambda: shown == ["one"])
        log.unlink()
        time.sleep(0.5)  # two polls
        writer.write(b"two\n")
        wait_until(lambda: shown == ["one", "two"])


def test_who_writes_the_log_goes_on_writing_it(tmp_path):
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"before\n")
        rotate_log(log, 1)
        writer.write(b"after\n")
    assert (log.read_text(), (tmp_path / "log.1").read_text()) == ("after\n", "before\n")


def test_a_relay_follows_a_log_that_was_cut(tmp_path):
    log = tmp_path / "log"
    log.write_text("one\n")
    shown = []
    with LogRelay(log, shown.append):
        wait_until(lambda: shown == ["one"])
        rotate_log(log, 1)
        time.sleep(0.5)  # two polls: what is shorter than before was cut
        log.write_text("two\n")
        wait_until(lambda: shown == ["one", "two"])
