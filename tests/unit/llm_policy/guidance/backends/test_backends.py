"""Both backends plan, compile and mask; each states a guide in its own language."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.backends.create import create_backend
from llm_policy.guidance.backends.guide_backend import GuideBackend, num_mask_words
from llm_policy.guidance.backends.names import BACKENDS, LLGUIDANCE, XGRAMMAR
from llm_policy.guidance.backends.vocabulary import Vocabulary
from llm_policy.guidance.compile.probe import allows
from llm_policy.release.guide_limits import GuideLimits
from llmstack.paths import DEFAULT_RELEASE_DIR

llguidance = pytest.importorskip("llguidance")
pytest.importorskip("xgrammar")
LIMITS = GuideLimits()
GUIDES = [
    ("json", "", ['{"a":[1,true,null]}', '"x"'], ["{", "{'a':1}"]),
    ("json_schema", '{"type":"string","maxLength":3}', ['"abc"', '""'], ['"abcd"', "1"]),
    ("json_schema", '{"not":{"type":"string"}}', ["1", "[]"], ['"a"']),
    ("regex", "[ab]{2,3}", ["ab", "bbb"], ["a", "abab"]),
    ("ebnf_grammar", 'root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "x)"]),
    ("choice", '["yes","no"]', ["yes", "no"], ["y", "yesno"]),
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(DEFAULT_RELEASE_DIR / "tokenizer_info.json")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> GuideBackend:
    return create_backend(request.param, vocabulary)


def accepts(backend: GuideBackend, vocabulary: Vocabulary, engine_text: str, answer: str) -> bool:
    """Whether the masks allow the answer and its end.

    The answer is in the tokenizer's own tokens: where the text is forced, llguidance allows no others.
    """
    matcher = backend.compile(engine_text).matcher()
    bitmask = np.zeros(num_mask_words(backend.vocab_size), np.int32)
    ids = llguidance.LLTokenizer(vocabulary.tokenizer_json).tokenize_str(answer)
    for token in [*ids, vocabulary.stop_token_ids[0]]:
        matcher.fill_bitmask(bitmask)
        if not allows(bitmask, token) or not matcher.accept_token(token):
            return False
    return True


@pytest.mark.parametrize(("kind", "text", "valid", "invalid"), GUIDES)
def test_the_masks_of_a_planned_guide_allow_exactly_its_texts(
    backend: GuideBackend, vocabulary: Vocabulary, kind: str, text: str, valid: list[str], invalid: list[str]
) -> None:
    guide = next(iter(backend.plans(kind, text, LIMITS, is_registered=False)))
    assert [answer for answer in valid if not accepts(backend, vocabulary, guide.engine_text, answer)] == []
    assert [answer for answer in invalid if accepts(backend, vocabulary, guide.engine_text, answer)] == []


def test_each_backend_has_its_own_guide_type(backend: GuideBackend) -> None:
    expected = {XGRAMMAR: "ebnf_grammar", LLGUIDANCE: "lark_grammar"}
    guide = next(iter(backend.plans("json_schema", '{"type":"integer"}', LIMITS, is_registered=False)))
    assert guide.engine_type == expected[backend.name]


def test_a_text_that_does_not_compile_is_rejected_without_a_quote(backend: GuideBackend) -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: the grammar compiler rejects this guide$"):
        backend.compile("no grammar at all: secret")


def test_an_unsatisfiable_schema_is_rejected(backend: GuideBackend) -> None:
    with pytest.raises(InvalidRequest, match="schema_invalid"):
        next(iter(backend.plans("json_schema", '{"type":"string","enum":[1]}', LIMITS, is_registered=False)))


def whole(vocabulary: Vocabulary, schema: Any) -> bool:
    """Whether llguidance gets the schema as it is."""
    backend = create_backend(LLGUIDANCE, vocabulary)
    guide = next(iter(backend.plans("json_schema", json.dumps(schema), LIMITS, is_registered=False)))
    return guide.engine_text.startswith("start: %json ")


def test_llguidance_gets_a_schema_whole_if_it_supports_each_keyword(vocabulary: Vocabulary) -> None:
    assert whole(vocabulary, {"type": "string", "maxLength": 200})
    assert whole(vocabulary, {"type": "string", "format": "an-annotation"})
    assert not whole(vocabulary, {"type": "array", "uniqueItems": True})


def test_a_client_cannot_set_options_of_llguidance(vocabulary: Vocabulary) -> None:
    backend = create_backend(LLGUIDANCE, vocabulary)
    schema = '{"type":"array","x-guidance":{"whitespace_flexible":true,"lenient":true},"items":{"type":"null"}}'
    guide = next(iter(backend.plans("json_schema", schema, LIMITS, is_registered=False)))
    assert "lenient" not in guide.engine_text
    assert not accepts(backend, vocabulary, guide.engine_text, "[ null]")


def test_a_property_named_format_keeps_its_schema(vocabulary: Vocabulary) -> None:
    backend = create_backend(LLGUIDANCE, vocabulary)
    schema = '{"type":"object","properties":{"format":{"type":"null"}},"required":["format"]}'
    guide = next(iter(backend.plans("json_schema", schema, LIMITS, is_registered=False)))
    assert accepts(backend, vocabulary, guide.engine_text, '{"format":null}')
    assert not accepts(backend, vocabulary, guide.engine_text, '{"format":1}')


def test_xgrammar_plans_a_length_with_less_counting_each_time(vocabulary: Vocabulary) -> None:
    backend = create_backend(XGRAMMAR, vocabulary)
    schema = '{"type":"string","minLength":2,"maxLength":100}'
    plans = list(backend.plans("json_schema", schema, LIMITS, is_registered=True))
    assert [bool(plan.unenforced) for plan in plans] == [False, *[True] * (len(plans) - 1)]
    assert len(plans) > 1
