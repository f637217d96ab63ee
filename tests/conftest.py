"""What holds for every test: those that need a live server are marked, and each server lives in one worker."""

import pytest

# Fixture → the group whose tests share one worker, so that under xdist each server is started once.
SERVER_GROUPS = {"server": "embedded-server", "echo_server": "echo-server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in SERVER_GROUPS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
            item.add_marker(pytest.mark.xdist_group(SERVER_GROUPS[fixture]))
