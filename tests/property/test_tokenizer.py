"""Properties of tokenization with the real Qwen vocabulary."""

import json
import unicodedata
from functools import cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.text.tokenizer import FastokensBackend, ReferenceBackend, Tokenizer
from llm_policy.text.tokenizer_file import TokenizerFile
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.hypothesis_profiles import num_examples
from tests.qwen import added_tokens, qwen_tokenizer_dir

DIFFICULT = (
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
TEXTS = st.lists(st.text(max_size=6) | st.sampled_from(DIFFICULT) | st.sampled_from(added_tokens()), max_size=12).map(
    "".join
)
BENIGN = st.lists(st.text(max_size=6) | st.sampled_from(DIFFICULT), max_size=8).map("".join)

CHATS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), BENIGN), min_size=1, max_size=4)


@cache
def backends():
    text = TokenizerFile.read(qwen_tokenizer_dir()).ordinary_json
    return FastokensBackend(text), ReferenceBackend(text)


@cache
def load(directory):
    return Tokenizer.load(directory)


def tokenizer(directory=None):
    return load(directory or qwen_tokenizer_dir())


@cache
def reference_chat(directory):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"),
        chat_template=(directory / "chat_template.jinja").read_text(),
    )


def assert_as_transformers(directory, chat):
    messages = [{"role": role, "content": content} for role, content in chat]
    expected = reference_chat(directory).apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert tokenizer(directory).encode_chat(json.dumps(messages).encode()).tolist() == expected


@cache
def reference(directory):
    return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


@settings(max_examples=num_examples(50, 300))
@given(TEXTS)
def test_both_libraries_give_the_same_ids(text):
    fast, slow = backends()
    assert fast.encode(text).tolist() == slow.encode(text).tolist()


@given(BENIGN)
def test_benign_text_has_the_same_ids_as_with_the_complete_tokenizer_json(text):
    whole = reference(qwen_tokenizer_dir()).encode(text, add_special_tokens=False)
    assert tokenizer().encode_text(text).tolist() == whole.ids


@given(TEXTS)
def test_normalized_text_survives_encoding_and_decoding(text):
    text = unicodedata.normalize("NFC", text)
    assert tokenizer().decode(tokenizer().encode_text(text).tolist()) == text


@pytest.mark.parametrize(
    "directory", [qwen_tokenizer_dir(), DEFAULT_RELEASE_DIR / "tokenizer"], ids=["qwen", "embedded"]
)
@given(st.data())
def test_any_ids_decode_as_with_the_complete_tokenizer_json(directory, data):
    size = tokenizer(directory).vocab_size
    controls = st.sampled_from(sorted(tokenizer(directory).control_tokens.values()))
    ids = data.draw(st.lists(st.integers(0, size + 300) | st.integers(0, 255) | controls, max_size=12))
    assert tokenizer(directory).decode(ids) == reference(directory).decode(ids, skip_special_tokens=True)


@given(TEXTS)
def test_no_user_text_becomes_a_control_token(text):
    assert not set(tokenizer().encode_text(text).tolist()) & set(tokenizer().control_tokens.values())


@given(TEXTS | st.text(alphabet="\u1100\u1161\u11a8e\u0301\u0344\u1fbe\u0308\u212a\u0327", max_size=200))
def test_the_lower_bound_never_exceeds_the_number_of_tokens(text):
    assert tokenizer().min_tokens_of(text) <= len(tokenizer().encode_text(text))


@settings(max_examples=num_examples(25))
@given(CHATS)
def test_a_chat_has_the_same_ids_as_in_transformers(chat):
    assert_as_transformers(qwen_tokenizer_dir(), chat)


@settings(max_examples=num_examples(75))
@given(CHATS)
def test_a_chat_of_the_embedded_release_has_the_same_ids_as_in_transformers(chat):
    assert_as_transformers(DEFAULT_RELEASE_DIR / "tokenizer", chat)
