"""The service's log as JSON lines."""

import io
import json
from datetime import datetime, timezone
from typing import TextIO, cast

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmstack.server.log_line import JsonLines, log_fields

NOW = datetime(2027, 1, 1, 0, 0, 5, tzinfo=timezone.utc)
TRITON = 'W1231 23:59:59.061430 24693 model_lifecycle.cc:472] "loading: \\"post\\":1"'


def written(*lines: str, with_canaries: bool = False) -> list[dict]:
    file = io.StringIO()
    log = JsonLines(file, lambda: NOW, with_canaries=with_canaries)
    for line in lines:
        log.relay(line)
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_a_line_of_triton_has_its_own_time_and_level():
    assert log_fields(TRITON, NOW) == {
        "time": "2026-12-31T23:59:59.061430Z",
        "level": "warning",
        "source": "triton",
        "message": 'loading: "post":1',
        "at": "model_lifecycle.cc:472",
    }


def test_a_line_of_a_model_keeps_its_fields_and_gets_the_missing_ones():
    (line,) = written('{"event":"request","time":"2026-12-31T00:00:00Z","level":"info","code":"overloaded"}')
    assert line["time"] == "2026-12-31T00:00:00Z"
    assert (line["source"], line["code"]) == ("model", "overloaded")
    (fault,) = written('{"event":"internal_fault","error":"KeyError"}')
    assert (fault["time"], fault["level"]) == ("2027-01-01T00:00:05.000000Z", "error")


def test_canaries_are_left_out_unless_they_are_wanted():
    canary, request = '{"event":"request","canary":true}', '{"event":"request","canary":false}'
    assert [line["canary"] for line in written(canary, request)] == [False]
    assert [line["canary"] for line in written(canary, request, with_canaries=True)] == [True, False]


def test_the_parents_text_becomes_one_json_line_for_each_line():
    file = io.StringIO()
    lines_file = cast("TextIO", JsonLines(file, lambda: NOW, with_canaries=False))
    console = Console(file=lines_file, soft_wrap=True, highlight=False)
    console.print("[green]ready[/green]", style="bold")
    console.print("WARNING: no keys\nnext: make some", markup=False)
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "ready"),
        ("warning", "WARNING: no keys"),
        ("info", "next: make some"),
    ]
    assert {(line["source"], line["time"]) for line in lines} == {("parent", "2027-01-01T00:00:05.000000Z")}


@given(st.text() | st.from_regex(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ \S+\] .*", fullmatch=True))
def test_every_line_of_the_log_becomes_a_json_line_with_time_level_and_source(line):
    for fields in written(line, with_canaries=True):
        assert {"time", "level", "source"} <= set(fields)
