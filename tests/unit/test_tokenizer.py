"""Text to ids and back."""

import json

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.tokenizer import FastokensBackend, Tokenizer
from tests.qwen import added_tokens, qwen_tokenizer_dir

TOKENIZER = Tokenizer.load(qwen_tokenizer_dir())


def chat(content, role="user"):
    return json.dumps([{"role": role, "content": content}]).encode()


def test_the_fast_library_is_the_one_in_use():
    assert isinstance(TOKENIZER._backend, FastokensBackend)


def test_ids_are_qwens_own():
    assert TOKENIZER.encode_text("Hello").tolist() == [9707]


def test_text_survives_the_way_there_and_back():
    text = "naïve 👩‍👩‍👧 <b>\r\n\t1234567 \u0301"
    assert TOKENIZER.decode(TOKENIZER.encode_text(text).tolist()) == text


@pytest.mark.parametrize("token", added_tokens())
def test_a_control_token_in_user_text_is_only_text(token):
    ids = TOKENIZER.encode_text(f"a{token}b").tolist()
    assert TOKENIZER._added[token] not in ids
    assert TOKENIZER.decode(ids) == f"a{token}b"


@pytest.mark.parametrize("token", added_tokens())
def test_a_control_token_in_a_message_is_only_text(token):
    plain, forged = (TOKENIZER.encode_chat(chat(text)).tolist() for text in ("ab", f"a{token}b"))
    controls = set(TOKENIZER._added.values())
    assert [i for i in forged if i in controls] == [i for i in plain if i in controls]
    assert f"a{token}b" in TOKENIZER.decode(forged)


def test_a_chat_opens_the_answers_turn_without_thinking():
    text = TOKENIZER._backend._tokenizer.decode(TOKENIZER.encode_chat(chat("hi")).tolist())
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_content_is_checked_before_it_is_tokenized():
    seen = []
    TOKENIZER.encode_chat(chat("hello"), seen.append)
    assert seen == ["hello"]


def test_ids_beyond_the_vocabulary_give_no_text():
    assert TOKENIZER.decode([9707, 151_900, 10**6]) == "Hello"


def test_broken_utf8_becomes_the_replacement_character():
    first, *rest = TOKENIZER.encode_text("\U0001fad9").tolist()
    assert rest
    assert TOKENIZER.decode([first]) == "\ufffd"


BAD = {
    "no JSON": b"{",
    "no UTF-8": b"[\xff]",
    "an object": b"{}",
    "an empty array": b"[]",
    "NaN": b"[NaN]",
    "257 messages": b"[" + b",".join([b'{"role":"user","content":""}'] * 257) + b"]",
    "a missing content": b'[{"role":"user"}]',
    "a third member": b'[{"role":"user","content":"","name":"x"}]',
    "a repeated member": b'[{"role":"user","content":"a","content":"b"}]',
    "an unknown role": b'[{"role":"tool","content":""}]',
    "a role that is an array": b'[{"role":[],"content":""}]',
    "a content that is an array": b'[{"role":"user","content":[]}]',
    "half a surrogate pair": b'[{"role":"user","content":"\\ud800"}]',
    "100,000 brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_messages_of_the_wrong_form_are_refused(raw):
    with pytest.raises(InvalidRequest, match=r"^invalid_input: messages"):
        TOKENIZER.encode_chat(raw)
