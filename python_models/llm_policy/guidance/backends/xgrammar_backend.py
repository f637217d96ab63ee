"""XGrammar: guides as EBNF. Masks are cheap where they are precomputed, so counts are written out or left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.backends.guide_backend import Bitmask, GuideMatcher, PlannedGuide
from llm_policy.guidance.backends.names import XGRAMMAR
from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.ebnf_writer import write_ebnf
from llm_policy.guidance.limits import invalid
from llm_policy.guidance.plan.planners import plan_guide
from llm_policy.release.guide_limits import GuideLimits

COUNTED_KINDS = ("json_schema", "regex", "ebnf_grammar")
"""Guide types that can contain counts."""


class XGrammarBackend:
    """Compiles on one thread and without a cache, so that one guide's compile time does not depend on others."""

    name = XGRAMMAR

    def __init__(self, encoded_vocab: list[str], stop_token_ids: list[int], vocab_size: int | None = None) -> None:
        """`vocab_size` is the engine's padded vocabulary, by default the tokenizer's."""
        import xgrammar

        self.tokenizer_info = xgrammar.TokenizerInfo(
            encoded_vocab, xgrammar.VocabType.BYTE_LEVEL, vocab_size=vocab_size, stop_token_ids=stop_token_ids
        )
        self.vocab_size: int = self.tokenizer_info.vocab_size
        self._compiler = xgrammar.GrammarCompiler(self.tokenizer_info, max_threads=1, cache_enabled=False)

    def plans(self, kind: str, text: str, limits: GuideLimits, *, is_registered: bool) -> Iterator[PlannedGuide]:
        """See `GuideBackend.plans`. A registered schema may compile for seconds, in warm-up."""
        levels = [Counting.BOUNDED, Counting.NONE] if kind in COUNTED_KINDS else [Counting.BOUNDED]
        if is_registered and kind in COUNTED_KINDS:
            levels.insert(0, Counting.WRITTEN_OUT)
        written: set[str] = set()
        for counting in levels:
            guide = self._planned(kind, text, limits, counting)
            if guide is not None and guide.engine_text not in written:
                written.add(guide.engine_text)
                yield guide

    def _planned(self, kind: str, text: str, limits: GuideLimits, counting: Counting) -> PlannedGuide | None:
        """None if the grammar is too large with its counts written out; the next level is smaller."""
        try:
            plan = plan_guide(kind, text, limits, counting)
            copies = kind in ("json", "json_schema", "choice")
            ebnf = write_ebnf(plan.grammar, limits, copy_classes=copies)
        except InvalidRequest:
            if counting is not Counting.WRITTEN_OUT:
                raise
            return None
        return PlannedGuide(
            "ebnf_grammar", ebnf, plan.canonical, plan.unenforced, plan.narrowed, len(plan.grammar.rules)
        )

    def compile(self, engine_text: str) -> XGrammarGuide:
        """See `GuideBackend.compile`."""
        try:
            return XGrammarGuide(self._compiler.compile_grammar(engine_text))
        except MemoryError:
            raise
        except Exception:
            raise invalid("the grammar compiler rejects this guide") from None


class XGrammarGuide:
    """A guide compiled by XGrammar; `grammar` is the library's object."""

    def __init__(self, grammar: Any) -> None:
        self.grammar = grammar

    def matcher(self) -> GuideMatcher:
        """See `CompiledGuide.matcher`."""
        return _Matcher(self.grammar)


class _Matcher:
    def __init__(self, grammar: Any) -> None:
        import torch
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(grammar)
        self._as_tensor = torch.from_numpy

    def fill_bitmask(self, bitmask: Bitmask) -> None:
        if not self._matcher.fill_next_token_bitmask(self._as_tensor(bitmask).unsqueeze(0)):
            bitmask.fill(-1)  # every token is allowed

    def accept_token(self, token_id: int) -> bool:
        return bool(self._matcher.accept_token(token_id))
