"""What holds for every test: those that need a live server are marked, and each server lives in one worker."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from tests.import_graph import reach_of

# The same examples every time, and no clock: these machines are noisy.
settings.register_profile("house", derandomize=True, deadline=None)
settings.load_profile("house")

# Fixture → the group whose tests share one worker, so that under xdist each server is started once.
SERVER_GROUPS = {"server": "embedded-server", "echo_server": "echo-server"}

# The policy is tested on every Python, where these extras need not be installed.
_EXTRAS = {"torch", "transformers", "safetensors", "xgrammar"}
_MISSING = {package for package in _EXTRAS if find_spec(package) is None}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the modules that can't be imported without an extra which is not installed."""
    if not _MISSING or collection_path.suffix != ".py":
        return None
    reached = {name.split(".", 1)[0] for name in reach_of(collection_path, at_load_only=True)}
    return True if reached & _MISSING else None


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in SERVER_GROUPS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
            item.add_marker(pytest.mark.xdist_group(SERVER_GROUPS[fixture]))
