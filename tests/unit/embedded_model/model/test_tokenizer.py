"""The tokenizer: Qwen3's rules and control tokens with a small vocabulary."""

import pytest

from embedded_model.model.tokenizer import CHAT_TEMPLATE, PLAIN_TOKENS, SPECIAL_TOKENS, VOCAB_SIZE

TEXTS = (
    "Order 12, please: ship it to Ada's house in Lisbon.",
    "  spaces   and\ttabs\r\n\r\nlines \n",
    "订单 🙂 Größe à la carte ½ e\u0301 \u200d\x00\x7f",
    '{"a": [1, 2.50, null, true], "b": "\\u00e9"}',
    "they'LL don't we've 12345 __init__ <p class=\"x\">",
)


def test_the_vocabulary_is_complete_and_ends_with_qwens_added_tokens(tokenizer):
    vocab = tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(VOCAB_SIZE))
    added = (*SPECIAL_TOKENS, *PLAIN_TOKENS)
    assert [vocab[text] for text in added] == list(range(VOCAB_SIZE - len(added), VOCAB_SIZE))


def test_control_tokens_are_special_and_thinking_tags_are_not(tokenizer):
    special = {added.content: added.special for added in tokenizer.get_added_tokens_decoder().values()}
    assert special["<|im_end|>"]
    assert not special["<think>"]
    assert not special["<tool_call>"]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_returns_the_text_in_composed_form(tokenizer, text):
    composed = text.replace("e\u0301", "\u00e9")
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == composed


def test_every_byte_has_a_token(tokenizer):
    text = "".join(map(chr, range(256))) + "\U0001f9ff\uffff"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_prose_takes_less_than_one_token_per_two_letters(tokenizer):
    assert len(tokenizer.encode(TEXTS[0]).ids) < len(TEXTS[0]) / 2


def test_every_digit_is_a_token_as_in_qwens_vocabulary(tokenizer):
    assert len(tokenizer.encode("2026").ids) == 4


def test_transformers_encodes_to_the_same_token_ids(release, tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(release.tokenizer_dir))
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for text in TEXTS:
        assert theirs.encode(text) == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, "<|im_start|>assistant\n"),
        ({"enable_thinking": True}, "<|im_start|>assistant\n"),
        ({"enable_thinking": False}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ({"add_generation_prompt": False}, ""),
    ],
)
def test_the_chat_template_renders_qwen3s_format(release, options, ending):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(release.tokenizer_dir))
    assert theirs.chat_template == CHAT_TEMPLATE
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "Bye"},
    ]
    rendered = theirs.apply_chat_template(messages, tokenize=False, **{"add_generation_prompt": True, **options})
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n" + ending
    )
