"""Live servers with the committed release on free ports, started at first use and stopped by their process id."""

from collections.abc import Iterator

import pytest

from llmstack.server.process import TritonServer


@pytest.fixture(scope="session")
def server() -> Iterator[TritonServer]:
    """The whole stack with the embedded engine."""
    with TritonServer(engine="embedded") as live:
        yield live


@pytest.fixture(scope="session")
def echo_server() -> Iterator[TritonServer]:
    """The whole stack with the no-op engine."""
    with TritonServer(engine="echo") as live:
        yield live
