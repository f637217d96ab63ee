"""The guides bench on a directory of two schemas, with a vocabulary of single bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llm_policy.guidance.backends.vocabulary import byte_values
from llmstack.guides.bench import measure_schemas, schema_paths
from llmstack.guides.converter_names import converter_names
from llmstack.guides.schema_result import SchemaResult
from llmstack.tokenizer.qwen_vocabulary import tokenizer_document

pytestmark = pytest.mark.slow
pytest.importorskip("xgrammar")
pytest.importorskip("llguidance")

CODE = {"type": "object", "properties": {"code": {"type": "string", "maxLength": 3}}, "required": ["code"]}
TESTS = [{"valid": True, "data": {"code": "ab"}}, {"valid": False, "data": {"code": "abcde"}}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two schemas, and a tokenizer of bytes beside them."""
    directory = tmp_path_factory.mktemp("bench")
    document = tokenizer_document({bytes([byte]): rank for rank, byte in enumerate(byte_values().values())})
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text(json.dumps(document))
    write(directory / "code.json", CODE, TESTS)
    write(directory / "endless.json", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, [])
    return directory


def write(path: Path, schema: Any, tests: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"schema": schema, "tests": tests}))


@pytest.fixture(scope="module")
def measured(directory: Path) -> Callable[[str], list[SchemaResult]]:
    """The results of both schemas with a converter, which starts once."""

    @cache
    def measure(converter: str) -> list[SchemaResult]:
        return list(measure_schemas(converter, schema_paths(directory), directory / "tokenizer" / "tokenizer.json"))

    return measure


@pytest.mark.parametrize("converter", converter_names(None, with_baseline=True))
def test_each_converter_tells_valid_instances_from_invalid_ones(
    measured: Callable[[str], list[SchemaResult]], converter: str
) -> None:
    code, _ = measured(converter)
    assert [(i.valid, i.judged_valid, i.accepted) for i in code.instances] == [
        (True, True, True),
        (False, False, False),
    ]
    assert code.compile_ms > 0


def test_masks_are_measured_before_every_token_and_the_end_of_valid_instances(
    measured: Callable[[str], list[SchemaResult]],
) -> None:
    code, _ = measured("llguidance")
    assert len(code.mask_ms) == len('{"code":"ab"}') + 1


def test_the_policy_reports_its_own_times_and_refuses_with_its_codes(
    measured: Callable[[str], list[SchemaResult]],
) -> None:
    code, endless = measured("xgrammar")
    assert 0 < code.compile_ms < code.admit_ms
    assert code.probe_mask_ms > 0
    assert endless.refusal == "schema_invalid"
    assert endless.refusal_detail


def test_a_directory_without_schemas_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no schema files"):
        schema_paths(tmp_path)
