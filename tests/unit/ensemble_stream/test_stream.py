"""What a client of a stream has got so far, and what it has not."""

from engine_process.messages import Generate, Tokens, write_ids, write_log_probs
from ensemble_stream.stream import Chunk, Stream
from llm_policy.ledger.row_record import RowRecord
from llm_policy.text.incremental_detokenizer import IncrementalDetokenizer

LETTERS = {1: b"a", 2: b"b", 3: "é".encode()[:1], 4: "é".encode()[1:]}


def new_stream(stop_words=(), prompt_text=""):
    detokenizer = IncrementalDetokenizer(LETTERS.__getitem__, stop_words)
    return Stream(RowRecord(), Generate(1, b"", 8), detokenizer, prompt_text)


def add(stream, *ids, log_probs=b""):
    return stream.add(Tokens(1, write_ids(ids), log_probs))


def test_tokens_that_wait_become_one_chunk():
    stream = new_stream()
    add(stream, 1)
    add(stream, 2, 1)
    assert stream.take_chunk() == Chunk("aba", 3, b"")
    assert not stream.has_new_tokens


def test_half_a_character_is_nothing_to_send():
    stream = new_stream()
    add(stream, 3)
    assert stream.take_chunk() == Chunk("", 1, b"")
    add(stream, 4)
    assert stream.take_chunk().text == "é"


def test_log_probabilities_do_not_wait_for_text():
    stream = new_stream()
    add(stream, 3, log_probs=write_log_probs([-1.0]))
    assert stream.take_chunk() == Chunk("", 1, write_log_probs([-1.0]))


def test_the_prompt_comes_with_the_first_text():
    stream = new_stream(prompt_text="Q: ")
    assert not stream.has_new_tokens
    add(stream, 1)
    assert stream.take_chunk().text == "Q: a"


def test_the_rest_is_what_the_answer_has_beyond_what_was_sent():
    stream = new_stream(stop_words=((1, 2),), prompt_text="Q: ")
    add(stream, 2, 1)
    assert stream.take_chunk().text == "Q: b"
    add(stream, 1, 3)
    assert stream.take_rest("Q: baa\ufffd") == Chunk("aa\ufffd", 4, b"")


def test_the_rest_of_a_stream_that_never_had_its_turn_is_the_whole_answer():
    stream = new_stream(prompt_text="Q: ")
    add(stream, 1, 2, log_probs=write_log_probs([-1.0, -2.0]))
    assert stream.take_rest("Q: ab") == Chunk("Q: ab", 2, write_log_probs([-1.0, -2.0]))


def test_an_empty_message_changes_nothing():
    stream = new_stream()
    assert add(stream) == 0.0
    assert not stream.has_new_tokens


def test_the_time_between_tokens_is_known_from_the_second_message_on():
    stream = new_stream()
    assert add(stream, 1) == 0.0
    assert add(stream, 1, 2) > 0.0
