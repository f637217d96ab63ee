"""What turns a schema into a compiled guide: the policy with one backend, or a library without the policy."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from llm_policy.errors import PolicyError
from llm_policy.guidance.backends.create import create_backend
from llm_policy.guidance.backends.guide_backend import CompiledGuide, GuideBackend, PlannedGuide
from llm_policy.guidance.backends.llguidance_backend import LlguidanceBackend
from llm_policy.guidance.backends.names import BACKENDS
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.backends.xgrammar_backend import XGrammarBackend, XGrammarGuide
from llm_policy.release.manifest import Guidance
from llmstack.guides.admission import Admission, Refused
from llmstack.guides.converter_names import XGRAMMAR_BASELINE
from llmstack.tokenizer.qwen_vocabulary import PADDED_VOCAB_SIZE


@dataclass
class Conversion:
    """A schema's compiled guide. Times are processor time."""

    compiled: CompiledGuide
    compile_ms: float
    plan_ms: float = 0.0
    admit_ms: float = 0.0
    probe_mask_ms: float = 0.0
    grammar_bytes: int = 0
    unenforced: list[str] = field(default_factory=list)


class Converter(Protocol):
    """Turns schemas into compiled guides."""

    num_mask_bits: int
    """The engine's padded vocabulary."""

    def convert(self, schema_text: str) -> Conversion:
        """The compiled guide.

        Raises:
            Refused: the schema is not accepted.
        """


def create_converter(name: str, vocabulary: Vocabulary) -> Converter:
    """The converter of that name; takes seconds."""
    if name in BACKENDS:
        return PolicyConverter(name, vocabulary)
    if name == XGRAMMAR_BASELINE:
        return XGrammarConverter(vocabulary)
    return LlguidanceConverter(vocabulary)


class PolicyConverter:
    """The policy's worker with one backend, as for a client's guide: the first plan that the engine can bear."""

    def __init__(self, backend: str, vocabulary: Vocabulary) -> None:
        guidance = Guidance()
        self._limits = guidance.limits
        self._admission = Admission(vocabulary, guidance, [backend])
        self._backend: GuideBackend = create_backend(backend, vocabulary, PADDED_VOCAB_SIZE)
        self.num_mask_bits = self._backend.vocab_size

    def convert(self, schema_text: str) -> Conversion:
        """See `Converter.convert`."""
        admitted = self._admission.admit("json_schema", schema_text)
        report, guide = admitted.report, admitted.guide
        return Conversion(
            self._backend.compile(guide.engine_text),
            report.compile_ms,
            self._plan_ms(schema_text, guide),
            admitted.admit_ms,
            report.mask_ms,
            guide.num_bytes,
            [f"{finding.keyword}: {finding.reason}" for finding in guide.unenforced],
        )

    def _plan_ms(self, schema_text: str, guide: PlannedGuide) -> float:
        """Time of planning, with the plans before the accepted one."""
        began = time.process_time()
        for plan in self._backend.plans("json_schema", schema_text, self._limits, is_registered=False):
            if plan.engine_text == guide.engine_text:
                break
        return 1000 * (time.process_time() - began)


class XGrammarConverter:
    """XGrammar's own schema converter with its defaults."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import xgrammar

        backend = XGrammarBackend(vocabulary.encoded_vocab, vocabulary.stop_token_ids, PADDED_VOCAB_SIZE)
        self._compiler: Any = xgrammar.GrammarCompiler(backend.tokenizer_info, max_threads=1, cache_enabled=False)
        self.num_mask_bits = backend.vocab_size

    def convert(self, schema_text: str) -> Conversion:
        """See `Converter.convert`."""
        began = time.process_time()
        try:
            compiled = self._compiler.compile_json_schema(schema_text)
        except RuntimeError:
            raise Refused("compile_error") from None
        return Conversion(XGrammarGuide(compiled), 1000 * (time.process_time() - began))


class LlguidanceConverter:
    """llguidance's own schema converter, for JSON without whitespace."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._backend = LlguidanceBackend(vocabulary.tokenizer_json, vocabulary.stop_token_ids, PADDED_VOCAB_SIZE)
        self.num_mask_bits = self._backend.vocab_size

    def convert(self, schema_text: str) -> Conversion:
        """See `Converter.convert`."""
        began = time.process_time()
        try:
            compiled = self._backend.compile(f"start: %json {_compact(schema_text)}\n")
        except PolicyError:
            raise Refused("compile_error") from None
        return Conversion(compiled, 1000 * (time.process_time() - began))


def _compact(schema_text: str) -> str:
    schema = json.loads(schema_text)
    options = {"x-guidance": {"whitespace_flexible": False}}
    return json.dumps({**options, **schema} if isinstance(schema, dict) else schema, ensure_ascii=False)
