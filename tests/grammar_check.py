"""XGrammar over a vocabulary of the 256 bytes, with which a grammar compiles in a millisecond."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import xgrammar

from llm_policy.guidance.backends.vocabulary import byte_values
from llm_policy.guidance.backends.xgrammar_backend import XGrammarBackend
from llm_policy.guidance.grammar.ebnf_writer import write_ebnf
from llm_policy.guidance.plan.guide_plan import GuidePlan
from llm_policy.release.guide_limits import GuideLimits

STOP = 256


@lru_cache(maxsize=1)
def backend() -> XGrammarBackend:
    """XGrammar for the vocabulary of single bytes and one stop token."""
    characters = {byte: character for character, byte in byte_values().items()}
    return XGrammarBackend([*(characters[byte] for byte in range(256)), "</s>"], [STOP])


def compile_ebnf(text: str) -> Any:
    """The compiled grammar of an EBNF text."""
    return backend().compile(text).grammar


def compile_plan(plan: GuidePlan, *, copy_classes: bool = True) -> Any:
    """The compiled grammar of a plan."""
    return compile_ebnf(write_ebnf(plan.grammar, GuideLimits(), copy_classes=copy_classes))


def accepts(compiled: Any, text: str) -> bool:
    """Whether the grammar accepts the whole text and the output may end there."""
    matcher = xgrammar.GrammarMatcher(compiled)
    return bool(matcher.accept_string(text) and matcher.accept_token(STOP))
