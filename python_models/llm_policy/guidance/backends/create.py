"""Creates backends by name."""

from __future__ import annotations

from llm_policy.guidance.backends.guide_backend import GuideBackend
from llm_policy.guidance.backends.llguidance_backend import LlguidanceBackend
from llm_policy.guidance.backends.names import XGRAMMAR
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.backends.xgrammar_backend import XGrammarBackend


def create_backend(name: str, vocabulary: Vocabulary, vocab_size: int | None = None) -> GuideBackend:
    """The backend `name` for a vocabulary; `vocab_size` is the engine's padded one. Takes seconds."""
    if name == XGRAMMAR:
        return XGrammarBackend(vocabulary.encoded_vocab, vocabulary.stop_token_ids, vocab_size)
    return LlguidanceBackend(vocabulary.tokenizer_json, vocabulary.stop_token_ids, vocab_size)
