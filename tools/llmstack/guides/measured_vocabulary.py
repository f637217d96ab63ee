"""The vocabulary of measurements, and a tokenizer that keeps texts as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm_policy.guidance.backends.vocabulary import Vocabulary
from llmstack.tokenizer.qwen_vocabulary import STOP_TOKENS, encoded_vocab


class MeasuredVocabulary:
    """Qwen's vocabulary, as a release states it, with Hugging Face's tokenizer."""

    def __init__(self, tokenizer_json: Path) -> None:
        import tokenizers  # only the measuring child needs it

        text = tokenizer_json.read_text(encoding="utf-8")
        document: dict[str, Any] = json.loads(text)
        tokens = encoded_vocab(document)
        self.stop_id = tokens.index(STOP_TOKENS[0])
        self.vocabulary = Vocabulary(tokens, [self.stop_id], text)
        # The normalizer would change texts that are not in normal form C; a model can write any text.
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**document, "normalizer": None}))
        self._tokenizer.encode_special_tokens = True

    def tokenize(self, text: str) -> list[int]:
        """Token ids of the text. Names of special tokens in it are text like any other."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
