"""Live servers on the committed release, on free ports. Each is started at its first use and stopped by its pid."""

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
