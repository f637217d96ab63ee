"""Prints as JSON what a Python holds: its version, the packages that it finds, and the modules that it can't import.

It runs in the engine's Python, which may be another one without this project: it uses the standard library only.
Arguments: names of packages, `--`, names of modules.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "without a version"


def _import_error(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(arguments: list[str]) -> None:
    """Print a JSON object with `version`, `packages` and `errors`. Importing a package could take a minute."""
    split = arguments.index("--")
    packages, modules = arguments[:split], arguments[split + 1 :]
    found = {name: _version(name) for name in packages if importlib.util.find_spec(name) is not None}
    errors = {module: error for module in modules if (error := _import_error(module)) is not None}
    print(json.dumps({"version": platform.python_version(), "packages": found, "errors": errors}))


if __name__ == "__main__":
    main(sys.argv[1:])
