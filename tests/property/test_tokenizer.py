"""Laws of tokenization, over the real Qwen vocabulary."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.tokenizer import FastokensBackend, ReferenceBackend, Tokenizer
from tests.qwen import added_tokens, qwen_tokenizer_dir, tokenizer_json

NASTY = (
    *("\u0301", "\u0323", "\u200d", "\ufe0f", "\u1100", "\u1161", "\u11a8", "\u0344", "\u2126", "\ufb1d", "\u0958"),
    *("\r\n", "\r", "\n\n", "\t", " ", "   ", "\x00", "\x1f", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffd", "\ud7ff"),
    *(
        "\ue000",
        "\U0010ffff",
        "中文",
        "العربية",
        "नमस्ते",
        "👩‍👩‍👧",
        "🇬🇧",
        "e\u0301",
        "ﬁ",
        "İ",
        "ß",
        "'s",
        "'LL",
        "1234",
        "½",
    ),
    *("{", '"', "\\u0041", "<|", "|>", "a" * 40, "=" * 40),
)
TEXTS = st.lists(st.text(max_size=6) | st.sampled_from(NASTY) | st.sampled_from(added_tokens()), max_size=12).map(
    "".join
)
BENIGN = st.lists(st.text(max_size=6) | st.sampled_from(NASTY), max_size=8).map("".join)


@cache
def backends():
    return FastokensBackend(tokenizer_json()), ReferenceBackend(tokenizer_json())


@cache
def tokenizer():
    return Tokenizer.load(qwen_tokenizer_dir())


@cache
def reference_chat():
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(qwen_tokenizer_dir() / "tokenizer.json"),
        chat_template=(qwen_tokenizer_dir() / "chat_template.jinja").read_text(),
    )


@settings(max_examples=400)
@given(TEXTS)
def test_both_libraries_give_the_same_ids(text):
    fast, reference = backends()
    assert fast.encode(text).tolist() == reference.encode(text).tolist()


@given(TEXTS)
def test_both_libraries_give_the_same_text(text):
    fast, reference = backends()
    ids = fast.encode(text).tolist()
    assert fast.decode(ids) == reference.decode(ids)


@given(TEXTS)
def test_no_user_text_becomes_a_control_token(text):
    assert not set(tokenizer().encode_text(text).tolist()) & set(tokenizer()._added.values())


@given(TEXTS | st.text(alphabet="\u1100\u1161\u11a8e\u0301\u0344", max_size=200))
def test_the_cheap_bound_never_exceeds_the_tokens(text):
    assert tokenizer().min_tokens_of(text) <= len(tokenizer().encode_text(text))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), BENIGN), min_size=1, max_size=4))
def test_a_chat_has_the_ids_that_transformers_gives_it(turns):
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = reference_chat().apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert tokenizer().encode_chat(json.dumps(messages).encode()).tolist() == expected
