"""This project's version, also where it runs from its sources without being installed."""

from __future__ import annotations

import importlib.metadata
import re

from llmstack.paths import PROJECT_ROOT

UNKNOWN = "0+unknown"
_VERSION = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)


def project_version() -> str:
    """The installed package's version, else the one in the checkout's pyproject.toml, else `UNKNOWN`."""
    try:
        return importlib.metadata.version("llm-serving-stack")
    except importlib.metadata.PackageNotFoundError:
        return _version_of_checkout()


def _version_of_checkout() -> str:
    try:
        match = _VERSION.search((PROJECT_ROOT / "pyproject.toml").read_text())
    except OSError:
        return UNKNOWN
    return match[1] if match else UNKNOWN
