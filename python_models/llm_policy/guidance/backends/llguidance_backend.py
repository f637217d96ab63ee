"""llguidance: guides as Lark grammars. Its masks are computed for each token and don't depend on counts.

A schema that llguidance takes whole goes to it as it is, after our own reader, limits and satisfiability check. The
other guides are planned and written as Lark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_policy.errors import Code, InvalidRequest
from llm_policy.guidance.backends.guide_backend import BackendLimit, Bitmask, CompiledGuide, GuideMatcher, PlannedGuide
from llm_policy.guidance.backends.names import LLGUIDANCE
from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.lark_writer import write_lark
from llm_policy.guidance.json_reader import JsonValue, read_json, write_json
from llm_policy.guidance.limits import invalid
from llm_policy.guidance.plan.guide_plan import GuidePlan
from llm_policy.guidance.plan.planners import plan_guide
from llm_policy.guidance.plan.whole_schema import LIBRARY_OPTIONS, whole_schema
from llm_policy.release.guide_limits import GuideLimits

MAX_NESTING = 100
"""Deepest schema that llguidance gets whole. Its reader is recursive and kills the process when the stack ends: at 160
nested references on a stack of 1 MiB, as small as an engine's may be."""

COMPACT = {"whitespace_flexible": False}
"""No whitespace between JSON tokens, because a model could emit whitespace endlessly."""


class LlguidanceBackend:
    """Compiles for one tokenizer."""

    name = LLGUIDANCE

    def __init__(self, tokenizer_json: str, stop_token_ids: list[int], vocab_size: int | None = None) -> None:
        """Takes two seconds for a vocabulary of 150,000. `vocab_size` is the engine's padded vocabulary."""
        import llguidance

        self.tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=stop_token_ids)
        self.vocab_size: int = self.tokenizer.vocab_size
        # A guide's text must not come back in an error.
        self._limits = llguidance.LLParserLimits(verbose_errors=False)

    def plans(self, kind: str, text: str, limits: GuideLimits, *, is_registered: bool) -> Iterator[PlannedGuide]:
        """See `GuideBackend.plans`."""
        plan = plan_guide(kind, text, limits, Counting.EXACT)
        if kind == "json":
            yield _guide(_json_lark({}), plan)
            return
        if kind == "json_schema":
            schema = whole_schema(read_json(text, limits))
            lark = _json_lark(schema) if isinstance(schema, dict) else ""
            if lark and plan.max_nesting <= MAX_NESTING and self._takes(lark):
                yield _guide(lark, GuidePlan(plan.grammar, plan.canonical))
        try:
            lark = write_lark(plan.grammar, limits)
        except InvalidRequest as error:
            raise BackendLimit(error) from None
        yield _guide(lark, plan)

    def _takes(self, lark: str) -> bool:
        """Whether llguidance supports every keyword of the schema in `lark`."""
        return not self._new_matcher(lark).is_error()

    def compile(self, engine_text: str) -> CompiledGuide:
        """See `GuideBackend.compile`."""
        matcher = self._new_matcher(engine_text)
        if matcher.is_error():
            raise invalid("the grammar compiler rejects this guide")
        return _Compiled(matcher)

    def _new_matcher(self, lark: str) -> Any:
        import llguidance

        grammar = llguidance.LLMatcher.grammar_from_lark(lark)
        return llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=self._limits)


def _json_lark(schema: dict[str, JsonValue]) -> str:
    # Last, because llguidance reads a draft from `$schema` only where that comes first.
    text = write_json({**schema, LIBRARY_OPTIONS: COMPACT})
    return f"start: %json {text}\n"


def _guide(lark: str, plan: GuidePlan) -> PlannedGuide:
    return PlannedGuide("lark_grammar", lark, plan.canonical, plan.unenforced, plan.narrowed, len(plan.grammar.rules))


class _Compiled:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def matcher(self) -> GuideMatcher:
        return _Matcher(self._matcher.deep_copy())


class _Matcher:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def fill_bitmask(self, bitmask: Bitmask) -> None:
        self._matcher.unsafe_compute_mask_ptr(bitmask.ctypes.data, bitmask.nbytes)
        if self._matcher.is_error():
            raise InvalidRequest(
                Code.SCHEMA_TOO_COMPLEX, f"guide overruns a limit of llguidance: {self._matcher.stop_reason()}"
            )

    def accept_token(self, token_id: int) -> bool:
        return bool(self._matcher.consume_token(token_id))
