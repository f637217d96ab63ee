"""Real servers behind a real HAProxy. A test is skipped when a program that it needs is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from llmstack.server.process import TritonServer
from tests.docker.running_gateway import RunningGateway, running_gateway


def require_programs(*programs: str) -> None:
    """Skip the test when one of these programs is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (.ci/run installs them)")


@pytest.fixture(scope="session")
def echo() -> Iterator[TritonServer]:
    """The whole stack with the no-op engine."""
    require_programs("haproxy", "openssl")
    with TritonServer(engine="echo") as live:
        yield live


@pytest.fixture(scope="session")
def gateway(echo: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("gateway"), echo) as live:
        yield live
