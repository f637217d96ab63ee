"""Who imports whom in this project, read from the source: nothing is imported."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = (ROOT / "python_models", ROOT / "tools", ROOT)
PACKAGES = ("llm_policy", "portable_engine", "llmstack", "embedded_model", "tests")


@cache
def direct_imports(path: Path, at_load_only: bool = False) -> frozenset[str]:
    """The absolute names of what the file imports: anywhere, or only what runs when it is imported itself."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")), at_load_only))


@cache
def transitive_imports(path: Path, at_load_only: bool = False) -> frozenset[str]:
    """Everything that importing this file may import, through this project's own modules."""
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        for name in direct_imports(waiting.pop(), at_load_only) - seen:
            seen.add(name)
            if (found := find_module(name)) is not None:
                waiting.append(found)
    return frozenset(seen)


@cache
def find_module(name: str) -> Path | None:
    """The file of one of this project's modules."""
    if name.split(".", 1)[0] not in PACKAGES:
        return None
    places = [root.joinpath(*name.split(".")) for root in SOURCE_ROOTS]
    candidates = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return next((file for file in candidates if file.is_file()), None)


def _names(node: ast.AST, at_load_only: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)  # may be modules themselves
        elif not (at_load_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from _names(child, at_load_only)
