"""Measures how well guides work on a directory of schemas with labelled instances.

The files are in MaskBench's format: `{"schema": …, "tests": [{"valid": bool, "data": …}]}`. Each schema is planned,
compiled for a real vocabulary on one thread without a cache, and checked with each instance. This happens in a child
process, which is killed when a schema takes too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmstack.guides.child_process import ChildProcess, NoAnswer
from llmstack.guides.schema_measurement import schema_measurement
from llmstack.guides.schema_result import SchemaResult

SCHEMA_SECONDS = 30.0
"""Wall-clock limit for one schema with all its instances."""


def schema_paths(schemas_dir: Path) -> list[Path]:
    """The schema files of a directory, sorted.

    Raises:
        FileNotFoundError: there are none.
    """
    paths = sorted(schemas_dir.glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no schema files in {schemas_dir}")
    return paths


def measure_schemas(converter: str, paths: list[Path], tokenizer_json: Path) -> Iterator[SchemaResult]:
    """The result of each schema, in order; the error code is `timeout` or `crash` if the child does not answer."""
    child: ChildProcess[Path, SchemaResult]
    with ChildProcess(schema_measurement, converter, tokenizer_json) as child:
        for path in paths:
            try:
                yield child.ask(path, SCHEMA_SECONDS)
            except NoAnswer as failure:  # noqa: PERF203 - each schema may fail
                yield SchemaResult(path.stem, failure.code)
