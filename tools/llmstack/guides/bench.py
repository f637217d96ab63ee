"""Measures how well guides work on a directory of schemas with labelled instances.

The files are in MaskBench's format: `{"schema": …, "tests": [{"valid": bool, "data": …}]}`. Each schema is planned,
compiled for a real vocabulary on one thread without a cache, and checked with each instance. This happens in a child
process, which is killed when a schema takes too long.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstack.guides.instance_order import follows_declaration
from llmstack.guides.schema_result import InstanceResult, SchemaResult

if TYPE_CHECKING:
    from llmstack.guides.grammar_compiler import GrammarCompiler

PLANNED, BASELINE = "planned", "baseline"
"""The converters: the policy's planner, and XGrammar's own JSON Schema converter."""
SCHEMA_SECONDS = 30.0
"""Wall-clock limit for one schema with all its instances."""
START_SECONDS = 120.0
"""Wall-clock limit for loading the vocabulary."""


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
    """The result of each schema, in order, with the converter `PLANNED` or `BASELINE`."""
    with _Child(tokenizer_json) as child:
        for path in paths:
            yield child.measure(converter, path)


class _Child:
    """A process that measures one schema at a time; replaced when it exceeds the time limit or dies."""

    def __init__(self, tokenizer_json: Path) -> None:
        self._tokenizer_json = tokenizer_json
        self._context = multiprocessing.get_context("spawn")
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def measure(self, converter: str, path: Path) -> SchemaResult:
        """The result of one schema; its error code is `timeout` or `crash` if the child does not answer."""
        pipe = self._pipe if self._pipe is not None else self._start()
        pipe.send((converter, str(path)))
        try:
            if pipe.poll(SCHEMA_SECONDS):
                result: SchemaResult = pipe.recv()
                return result
            code = "timeout"
        except (EOFError, ConnectionError):
            code = "crash"
        self._stop()
        return SchemaResult(path.stem, code)

    def _start(self) -> Connection[Any, Any]:
        self._pipe, child_end = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(child_end, str(self._tokenizer_json)), daemon=True)
        self._process.start()
        child_end.close()
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError(f"the bench's child process did not start within {START_SECONDS} s")
        return self._pipe

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


# The functions below run in the child, which alone imports XGrammar.


def _serve(pipe: Connection[Any, Any], tokenizer_json: str) -> None:
    from llmstack.guides.grammar_compiler import GrammarCompiler

    compiler = GrammarCompiler(Path(tokenizer_json))
    pipe.send("ready")
    while True:
        try:
            converter, path = pipe.recv()
        except EOFError:
            return
        pipe.send(_measure_schema(compiler, converter, Path(path)))


def _measure_schema(compiler: GrammarCompiler, converter: str, path: Path) -> SchemaResult:
    from llm_policy.errors import PolicyError
    from llm_policy.guidance.plan.json_schema_guide import plan_json_schema
    from llm_policy.release.guide_limits import GuideLimits

    content = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(content["schema"], ensure_ascii=False)
    result = SchemaResult(path.stem)
    start = time.process_time()
    try:
        if converter == PLANNED:
            planned = plan_json_schema(text, GuideLimits())
            result.unenforced = [f"{finding.keyword}: {finding.reason}" for finding in planned.unenforced]
            result.grammar_bytes = planned.num_bytes
            grammar = planned.guide
        result.plan_ms = 1000 * (time.process_time() - start)
        start = time.process_time()
        compiled = compiler.compile_ebnf(grammar) if converter == PLANNED else compiler.compile_json_schema(text)
        result.compile_ms = 1000 * (time.process_time() - start)
    except PolicyError as error:
        result.refusal = error.code.value
        return result
    except RuntimeError:
        result.refusal = "compile_error"
        return result
    result.instances = _measure_instances(compiler, compiled, content)
    texts = [_compact_json(test["data"]) for test in content["tests"] if test["valid"]]
    result.mask_ms = compiler.mask_ms(compiled, max(texts, key=len)) if texts else []
    return result


def _measure_instances(compiler: GrammarCompiler, compiled: Any, content: dict[str, Any]) -> list[InstanceResult]:
    from llm_policy.guidance.json_schema.schema_validator import build_schema_validator

    schema = content["schema"]
    validator = build_schema_validator(schema)
    return [
        InstanceResult(
            valid=test["valid"],
            judged_valid=validator.is_valid(test["data"]),
            accepted=compiler.accepts(compiled, _compact_json(test["data"])),
            in_order=follows_declaration(schema, test["data"]),
        )
        for test in content["tests"]
    ]


def _compact_json(instance: Any) -> str:
    return json.dumps(instance, ensure_ascii=False, separators=(",", ":"))
