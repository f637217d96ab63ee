"""Lark text matches exactly the texts of its grammar."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.guidance.grammar.grammar import Grammar
from llm_policy.guidance.grammar.lark_writer import write_lark
from llm_policy.release.guide_limits import GuideLimits
from tests.hypothesis_profiles import num_examples
from tests.lark_check import accepts, compile_lark
from tests.property.guidance.grammar_matcher import GrammarMatcher
from tests.property.guidance.grammar_texts import ALPHABET, changed_text, grammars, sample_text

_MAX_LENGTH = 40


@settings(max_examples=num_examples(100, in_explore_profile=1_200))
@given(grammars, st.integers(0, 2**16), st.lists(st.text(ALPHABET, max_size=6), max_size=5))
def test_the_lark_text_accepts_exactly_the_texts_of_the_grammar(grammar: Grammar, seed: int, texts: list[str]) -> None:
    matcher = compile_lark(write_lark(grammar, GuideLimits()))
    matching = [sample_text(grammar, seed + i) for i in range(4)]
    nearly_matching = [changed_text(text, seed) for text in matching]
    for text in (*matching, *nearly_matching, *texts, ""):
        if len(text) <= _MAX_LENGTH:
            assert accepts(matcher, text) == GrammarMatcher(grammar, text).matches(), text
