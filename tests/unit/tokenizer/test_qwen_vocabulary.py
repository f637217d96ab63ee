"""The Qwen vocabulary for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstack.tokenizer.qwen_vocabulary import build_tokenizer, encoded_vocab, last_merge, read_ranks, vocabulary_path


def test_the_last_merge_joins_the_two_parts_that_lower_merges_leave() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"abc": 4}
    assert last_merge(b"abc", ranks) == (b"ab", b"c")


@pytest.mark.slow
def test_the_tokenizer_has_the_ids_of_qwen(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    try:
        ranks = read_ranks(vocabulary_path())
    except FileNotFoundError:
        pytest.skip("package dashscope is not installed")
    assert len(ranks) == 151_643
    tokenizer = tokenizers.Tokenizer.from_file(str(build_tokenizer(tmp_path)))
    assert tokenizer.encode("Hello").ids == [9707]
    assert tokenizer.decode(tokenizer.encode("naïve 漢字 😀").ids) == "naïve 漢字 😀"
    assert tokenizer.token_to_id("<|im_end|>") == 151_645


def test_encoded_vocab_is_in_id_order() -> None:
    document = {"model": {"vocab": {"b": 1, "a": 0}}, "added_tokens": [{"id": 2, "content": "<s>"}]}
    assert encoded_vocab(document) == ["a", "b", "<s>"]
