"""Properties of text that is detokenized while it grows: the parts joined are the text of all tokens at once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.ledger.row_record import RowRecord
from llm_policy.release.release import Release
from llm_policy.steps.postprocess import Postprocess
from llm_policy.text.incremental_detokenizer import IncrementalDetokenizer
from llm_policy.text.stop_word_matcher import StopWordMatcher
from llm_policy.text.tokenizer import Tokenizer
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.hypothesis_profiles import num_examples
from tests.qwen import qwen_tokenizer_dir

VOCABULARIES: dict[str, Callable[[], Path]] = {
    "qwen": qwen_tokenizer_dir,
    "embedded": lambda: DEFAULT_RELEASE_DIR / "tokenizer",
}
TEXTS = st.lists(
    st.text(max_size=4)
    | st.sampled_from(["👩‍👩‍👧", "🇬🇧", "e\u0301", "नमस्ते", "العربية", "中文", "\ufffd", "\x00", " the", "1234"]),
    max_size=6,
).map("".join)
CHUNKS = st.lists(st.integers(1, 5), max_size=60)


@cache
def load(name: str) -> Tokenizer:
    return Tokenizer.load(VOCABULARIES[name]())


@cache
def postprocess(name: str) -> Postprocess:
    return Postprocess(Release.open(DEFAULT_RELEASE_DIR).manifest, load(name))


@st.composite
def token_ids(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Tokens of real text, single bytes, control tokens, and ids beyond the vocabulary, in any order."""
    ids: list[int] = []
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            ids += tokenizer.encode_text(draw(TEXTS)).tolist()
        else:
            ids += draw(st.lists(st.integers(0, 300) | st.integers(0, tokenizer.vocab_size + 9), max_size=5))
    return ids


@st.composite
def cut(draw: st.DrawFn, ids: list[int]) -> list[list[int]]:
    """The ids in chunks of 0 to 5."""
    chunks, start = [], 0
    for size in draw(CHUNKS):
        chunks.append(ids[start : start + size])
        start += size
    return [*chunks, ids[start:]]


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=num_examples(150))
@given(data=st.data())
def test_the_parts_joined_are_the_text_of_all_tokens_at_once(name, data):
    tokenizer = load(name)
    ids = data.draw(token_ids(tokenizer))
    detokenizer = IncrementalDetokenizer(tokenizer.token_bytes)
    joined = "".join(detokenizer.add(chunk) for chunk in data.draw(cut(ids)))
    text = tokenizer.decode(ids)
    assert text.startswith(joined)
    assert detokenizer.num_characters == len(joined)
    assert len(text) - len(joined) <= 1, "only one unfinished character may be held back"


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=num_examples(150))
@given(data=st.data())
def test_no_part_holds_a_letter_of_a_stop_word_that_ends_the_answer(name, data):
    tokenizer = load(name)
    ids = data.draw(token_ids(tokenizer))
    starts = st.integers(0, max(0, len(ids) - 1))
    words = data.draw(st.lists(st.tuples(starts, st.integers(1, 4)), max_size=3))
    stop_words = tuple(tuple(ids[start : start + size]) for start, size in words if ids[start : start + size])
    record = RowRecord(stop_words=stop_words, end_id=-1, max_completion_tokens=10_000)
    answer = postprocess(name).answer(record, ids, len(ids), (0, 0, 0, 0)).text
    detokenizer = IncrementalDetokenizer(tokenizer.token_bytes, stop_words)
    joined = "".join(detokenizer.add(chunk) for chunk in data.draw(cut(ids)))
    assert answer.startswith(joined)


@settings(max_examples=num_examples(150))
@given(
    words=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), max_size=4).map(tuple),
    ids=st.lists(st.integers(0, 2), max_size=30),
)
def test_the_longest_beginning_of_a_stop_word_is_held_and_nothing_more(words, ids):
    matcher = StopWordMatcher(words)
    for number, token_id in enumerate(ids, 1):
        matcher.add(token_id)
        tail = ids[:number]
        beginnings = {word[:length] for word in words for length in range(1, len(word) + 1)}
        expected = max((n for n in range(1, number + 1) if tuple(tail[-n:]) in beginnings), default=0)
        assert matcher.num_held == expected


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_whole_character_is_returned_at_once(name):
    tokenizer = load(name)
    detokenizer = IncrementalDetokenizer(tokenizer.token_bytes)
    ids = tokenizer.encode_text("é👩\ufffd").tolist()
    parts = [detokenizer.add([token_id]) for token_id in ids]
    assert "".join(parts) == "é👩\ufffd"
    assert parts[-1] != ""


def test_the_matcher_with_the_largest_words_takes_constant_time_for_a_token():
    words = tuple((*(1 for _ in range(63)), number) for number in range(2, 130))
    matcher = StopWordMatcher(words)
    for _ in range(1_000):
        matcher.add(1)
    assert matcher.num_held == 63
