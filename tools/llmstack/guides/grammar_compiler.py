"""XGrammar as the engine uses it, without its cache: compiles a grammar, checks texts, times token masks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import xgrammar

from llmstack.tokenizer.qwen_vocabulary import PADDED_VOCAB_SIZE, STOP_TOKENS, encoded_vocab

MASK_CHARACTERS = 120
"""Number of characters of an instance at which the token mask is timed."""


class GrammarCompiler:
    """Compiles for one vocabulary. Nothing is cached between grammars, so compile times are independent."""

    def __init__(self, tokenizer_json: Path) -> None:
        tokens = encoded_vocab(json.loads(tokenizer_json.read_text(encoding="utf-8")))
        self.stop_ids = [tokens.index(stop) for stop in STOP_TOKENS]
        self.tokenizer_info = xgrammar.TokenizerInfo(
            tokens, vocab_type=xgrammar.VocabType.BYTE_LEVEL, vocab_size=PADDED_VOCAB_SIZE, stop_token_ids=self.stop_ids
        )

    def _compiler(self) -> Any:
        return xgrammar.GrammarCompiler(self.tokenizer_info, max_threads=1, cache_enabled=False)

    def compile_ebnf(self, grammar: str) -> Any:
        """The compiled grammar.

        Raises:
            RuntimeError: XGrammar rejects the text.
        """
        return self._compiler().compile_grammar(grammar)

    def compile_json_schema(self, schema: str) -> Any:
        """The compiled grammar of XGrammar's own schema converter with its defaults.

        Raises:
            RuntimeError: XGrammar rejects the schema.
        """
        return self._compiler().compile_json_schema(schema)

    def accepts(self, compiled: Any, text: str) -> bool:
        """Whether the grammar accepts the whole text and the output may end after it."""
        matcher = xgrammar.GrammarMatcher(compiled)
        return bool(matcher.accept_string(text) and matcher.accept_token(self.stop_ids[0]))

    def mask_ms(self, compiled: Any, text: str) -> list[float]:
        """Milliseconds to fill the token mask before each of the first characters of the text, while it is accepted."""
        matcher = xgrammar.GrammarMatcher(compiled)
        bitmask = xgrammar.allocate_token_bitmask(1, PADDED_VOCAB_SIZE)
        times: list[float] = []
        for character in text[:MASK_CHARACTERS]:
            start = time.thread_time()
            matcher.fill_next_token_bitmask(bitmask)
            times.append(1000 * (time.thread_time() - start))
            if not matcher.accept_string(character):
                break
        return times
