"""The readers of the gateway's guard, run by the lua program without HAProxy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import llmstack.gateway
from tests.docker.conftest import require_programs

GUARD_DIR = Path(llmstack.gateway.__file__).parent


class Checked(NamedTuple):
    """What became of a call or body: 0, or a status and a reason after `num_forwarded` bytes."""

    status: int
    num_forwarded: int = 0
    reason: str = ""


ALLOWED = Checked(0)


class GuardReaders:
    """Feeds calls and bodies to one process of lua."""

    def __init__(self, lua: subprocess.Popen[str]) -> None:
        self._lua = lua

    def check_call(self, method: str, max_bytes: int, *pieces: bytes) -> Checked:
        """What the reader of gRPC calls says about the bytes of a call, in pieces as they arrive."""
        return self._check("grpc", method, max_bytes, pieces)

    def check_body(self, call: str, *pieces: bytes, json_bytes: int | None = None) -> Checked:
        """What the reader of JSON says about a body; `json_bytes` of it are JSON, all by default."""
        size = sum(map(len, pieces)) if json_bytes is None else json_bytes
        return self._check("json", call, size, pieces)

    def count_answers(self, *pieces: bytes) -> list[int]:
        """How many requests of a gRPC stream are answered completely by each piece that a server sends."""
        return [int(count) for count in self._feed("answers", "-", 0, pieces).split()]

    def _check(self, kind: str, name: str, size: int, pieces: tuple[bytes, ...]) -> Checked:
        words = self._feed(kind, name, size, pieces).split(" ", 3)
        return ALLOWED if words == ["allowed"] else Checked(int(words[1]), int(words[2]), words[3])

    def _feed(self, kind: str, name: str, size: int, pieces: tuple[bytes, ...]) -> str:
        print(kind, name, size, ",".join(piece.hex() for piece in pieces if piece), file=self._lua.stdin, flush=True)
        return self._lua.stdout.readline().strip()


@contextmanager
def guard_readers() -> Iterator[GuardReaders]:
    """Run lua; the test is skipped where it is not installed."""
    require_programs("lua5.3")
    command = ["lua5.3", str(Path(__file__).with_name("read_calls.lua")), str(GUARD_DIR)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lua:
        yield GuardReaders(lua)
        lua.stdin.close()
