"""The import graph of this project, parsed from the source without importing it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = (ROOT / "python_models", ROOT / "tools", ROOT)
PACKAGES = ("llm_policy", "engine_process", "portable_engine", "llmstack", "embedded_model", "tests")


@cache
def _direct_imports(path: Path, at_load_only: bool = False) -> frozenset[str]:
    """The absolute names that the file imports, anywhere or only at module level."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")), at_load_only))


@cache
def transitive_imports(path: Path, at_load_only: bool = False) -> frozenset[str]:
    """Every name that importing this file may import, directly or through this project's modules."""
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        for name in _direct_imports(waiting.pop(), at_load_only) - seen:
            seen.add(name)
            if (found := _find_module(name)) is not None:
                waiting.append(found)
    return frozenset(seen)


@cache
def _find_module(name: str) -> Path | None:
    """The file of a module of this project, or None."""
    if name.split(".", 1)[0] not in PACKAGES:
        return None
    stems = [root.joinpath(*name.split(".")) for root in SOURCE_ROOTS]
    candidates = [file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py")]
    return next((file for file in candidates if file.is_file()), None)


def _names(node: ast.AST, at_load_only: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)  # the names may be modules
        elif not (at_load_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from _names(child, at_load_only)
