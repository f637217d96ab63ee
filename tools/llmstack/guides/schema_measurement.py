"""Measures one schema: converts it, and checks the compiled guide with each of its instances."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_policy.guidance.json_schema.schema_validator import build_schema_validator
from llmstack.guides.admission import Refused
from llmstack.guides.converter import Conversion, Converter, create_converter
from llmstack.guides.instance_order import follows_declaration
from llmstack.guides.instance_walk import InstanceWalk
from llmstack.guides.measured_vocabulary import MeasuredVocabulary
from llmstack.guides.schema_result import InstanceResult, SchemaResult


def schema_measurement(converter: str, tokenizer_json: Path) -> Callable[[Path], SchemaResult]:
    """Measures the schema at a path with the converter of that name; takes seconds to create."""
    vocabulary = MeasuredVocabulary(tokenizer_json)
    return SchemaMeasurement(create_converter(converter, vocabulary.vocabulary), vocabulary)


class SchemaMeasurement:
    """Measures schemas with one converter."""

    def __init__(self, converter: Converter, vocabulary: MeasuredVocabulary) -> None:
        self._converter = converter
        self._tokenize = vocabulary.tokenize
        self._walk = InstanceWalk(vocabulary.stop_id, converter.num_mask_bits)

    def __call__(self, path: Path) -> SchemaResult:
        """The result of the schema at `path`."""
        content = json.loads(path.read_text(encoding="utf-8"))
        try:
            conversion = self._converter.convert(json.dumps(content["schema"], ensure_ascii=False))
        except Refused as refusal:
            return SchemaResult(path.stem, refusal.code, refusal.detail)
        return SchemaResult(
            path.stem,
            plan_ms=conversion.plan_ms,
            admit_ms=conversion.admit_ms,
            compile_ms=conversion.compile_ms,
            probe_mask_ms=conversion.probe_mask_ms,
            grammar_bytes=conversion.grammar_bytes,
            unenforced=conversion.unenforced,
            instances=self._instances(conversion, content),
            mask_ms=self._mask_ms(conversion, content),
        )

    def _instances(self, conversion: Conversion, content: dict[str, Any]) -> list[InstanceResult]:
        schema = content["schema"]
        validator = build_schema_validator(schema)
        return [
            InstanceResult(
                valid=test["valid"],
                judged_valid=validator.is_valid(test["data"]),
                accepted=self._walk.accepts(conversion.compiled, self._ids(test["data"])),
                in_order=follows_declaration(schema, test["data"]),
            )
            for test in content["tests"]
        ]

    def _mask_ms(self, conversion: Conversion, content: dict[str, Any]) -> list[float]:
        valid = [self._ids(test["data"]) for test in content["tests"] if test["valid"]]
        return [ms for ids in valid for ms in self._walk.mask_ms(conversion.compiled, ids)]

    def _ids(self, instance: Any) -> list[int]:
        return self._tokenize(json.dumps(instance, ensure_ascii=False, separators=(",", ":")))
