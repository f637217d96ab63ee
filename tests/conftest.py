"""Shared test configuration: server tests are marked, and each server runs in a single worker."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.import_graph import transitive_imports

# The same examples every time, and no deadlines: test machines are noisy.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")

# Fixtures that start a server. All files that use one run in the same worker, so each server is started once.
SERVERS = ("server", "echo_server")

# The policy is also tested on Pythons without these optional packages.
_EXTRAS = {"torch", "transformers", "safetensors", "xgrammar"}
_MISSING = {package for package in _EXTRAS if find_spec(package) is None}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skip test modules that import an optional package that is not installed."""
    if not _MISSING or collection_path.suffix != ".py":
        return None
    imported = {name.split(".", 1)[0] for name in transitive_imports(collection_path, at_load_only=True)}
    return True if imported & _MISSING else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if set(SERVERS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file, and all files that use the same server, in one worker.

    `--dist loadgroup` does not work: xdist 3.8 finds no groups under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ServerScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return _server_of(config.rootpath / file) or file

    return ServerScheduling(config, log)


@cache
def _server_of(path: Path) -> str | None:
    """The first server fixture that the tests in this file use."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    arguments = {
        argument.arg for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for argument in node.args.args
    }
    return next((fixture for fixture in SERVERS if fixture in arguments), None)
