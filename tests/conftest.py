"""Shared test configuration: server tests are marked, and each server runs in a single worker."""

import ast
import gc
from collections.abc import Generator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.import_graph import transitive_imports

pytest_plugins = ["tests.hypothesis_profiles"]

# Fixtures of shared servers. All files that use the same server run in the same worker, so each server is started once.
SERVERS = {
    "server": "server",
    "embedded_service": "server",
    "echo_service": "echo_service",
    "paced_server": "paced_server",
}

# The groups that take longest begin first, so that the workers end together. A group is a server or a file.
_INTEGRATION = "tests/integration"
LONGEST_FIRST = (
    "server",
    f"{_INTEGRATION}/test_webhook_chaos.py",
    f"{_INTEGRATION}/test_full_disk.py",
    f"{_INTEGRATION}/test_kills.py",
    "tests/browser/test_release_life.py",
    f"{_INTEGRATION}/test_hostile_guides.py",
    "echo_service",
    f"{_INTEGRATION}/test_api_keys.py",
    f"{_INTEGRATION}/test_ledger.py",
    f"{_INTEGRATION}/test_release_change.py",
    "paced_server",
)

# The policy is also tested on Pythons without these optional packages.
_EXTRAS = {"torch", "transformers", "safetensors", "xgrammar"}
_MISSING = {package for package in _EXTRAS if find_spec(package) is None}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skip test modules that import an optional package that is not installed."""
    if not _MISSING or collection_path.suffix != ".py":
        return None
    imported = {name.split(".", 1)[0] for name in transitive_imports(collection_path, at_load_only=True)}
    return True if imported & _MISSING else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Keep the garbage collector away from the test modules and their imports.

    They live until the end, and each full collection would visit all of them: a third of the time of this phase.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if SERVERS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
    items.sort(key=lambda item: (*_rank(_group_of(config.rootpath, item.nodeid)), _ends_server(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file, and all files that use the same server, in one worker.

    `--dist loadgroup` does not work: xdist 3.8 finds no groups under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ServerScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(config.rootpath, nodeid)

    return ServerScheduling(config, log)


def _rank(group: str) -> tuple[int, str]:
    """The place of a group: the long ones first, then other files on live servers, then the rest."""
    if group in LONGEST_FIRST:
        return LONGEST_FIRST.index(group), ""
    return len(LONGEST_FIRST) + (not group.startswith(_INTEGRATION)), group


def _ends_server(item: pytest.Item) -> bool:
    """Whether the test leaves no running server behind: then it comes after the others of its group."""
    return item.get_closest_marker("ends_server") is not None


def _group_of(root: Path, nodeid: str) -> str:
    file = nodeid.split("::", 1)[0]
    return _server_of(root / file) or file


def _is_fixture(function: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)


@cache
def _server_of(path: Path) -> str | None:
    """The server that the tests in this file use; a file may have a fixture of its own with a shared one's name."""
    functions = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    ]
    users = [function for function in functions if function.name.startswith("test_") or _is_fixture(function)]
    arguments = {argument.arg for function in users for argument in function.args.args}
    shared = arguments - {function.name for function in functions}
    return next((server for fixture, server in SERVERS.items() if fixture in shared), None)
