"""The registered schemas: every guided answer ends and is valid."""

import json
import random

import pytest

from embedded_model.release.builder import MAX_ANSWER_TOKENS
from embedded_model.release.schemas import SCHEMAS
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.backends.xgrammar_backend import XGrammarBackend


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_guided_answer_is_valid_and_within_max_tokens(release, name):
    xgrammar = pytest.importorskip("xgrammar")
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    vocabulary = Vocabulary.read(release.tokenizer_info_path)
    backend = XGrammarBackend(vocabulary.encoded_vocab, vocabulary.stop_token_ids)
    schema = release.schema_text(name)
    guide = next(backend.plans("json_schema", schema, release.manifest.guidance.limits, is_registered=True))
    grammar = xgrammar.GrammarCompiler(backend.tokenizer_info, max_threads=1).compile_grammar(guide.engine_text)
    validator = jsonschema_rs.validator_for(json.loads(schema))
    choice, vocab = random.Random(0), backend.tokenizer_info.decoded_vocab
    for _ in range(60):
        answer = _random_answer(xgrammar, grammar, vocab, choice)
        assert len(answer) <= MAX_ANSWER_TOKENS
        text = b"".join(vocab[token_id] for token_id in answer[:-1])
        assert validator.is_valid(json.loads(text)), text


def _random_answer(xgrammar, grammar, vocab, choice):
    """Random tokens that the grammar allows; half of the time only the shortest ones, which give the longest answer."""
    shortest = choice.random() < 0.5
    matcher = xgrammar.GrammarMatcher(grammar)
    bitmask = xgrammar.allocate_token_bitmask(1, len(vocab))
    answer = []
    while not matcher.is_terminated():
        assert len(answer) <= MAX_ANSWER_TOKENS
        matcher.fill_next_token_bitmask(bitmask)
        words = bitmask[0].tolist()
        allowed = [32 * i + bit for i, word in enumerate(words) if word for bit in range(32) if word >> bit & 1]
        if shortest:
            least = min(len(vocab[token_id]) for token_id in allowed)
            allowed = [token_id for token_id in allowed if len(vocab[token_id]) == least]
        answer.append(choice.choice(allowed))
        assert matcher.accept_token(answer[-1])
    return answer
