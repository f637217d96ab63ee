"""Encoding and decoding with Qwen's vocabulary."""

import json
import subprocess
import sys
import unicodedata

import pytest
import tokenizers

from llm_policy.errors import InvalidRequest
from llm_policy.text.tokenizer import FastokensBackend, ReferenceBackend, Tokenizer, choose_backend
from llm_policy.text.tokenizer_file import TokenizerFile
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.import_graph import ROOT
from tests.qwen import added_tokens, qwen_tokenizer_dir

TOKENIZER = Tokenizer.load(qwen_tokenizer_dir())
EMBEDDED = DEFAULT_RELEASE_DIR / "tokenizer"
SUBPROCESS_ENVIRONMENT = {"PYTHONPATH": str(ROOT / "python_models")}


def chat(content, role="user"):
    return json.dumps([{"role": role, "content": content}]).encode()


def test_the_fast_library_is_used():
    assert TOKENIZER.backend == "fastokens"


def test_ids_are_those_of_qwen():
    assert TOKENIZER.encode_text("Hello").tolist() == [9707]


def test_text_survives_encoding_and_decoding():
    text = "naïve 👩‍👩‍👧 <b>\r\n\t1234567 \u0301"
    assert TOKENIZER.decode(TOKENIZER.encode_text(text).tolist()) == text


@pytest.mark.parametrize("token", added_tokens())
def test_a_control_token_in_user_text_stays_text(token):
    ids = TOKENIZER.encode_text(f"a{token}b").tolist()
    assert TOKENIZER.control_tokens[token] not in ids
    assert TOKENIZER.decode(ids) == f"a{token}b"


@pytest.mark.parametrize("token", added_tokens())
def test_a_control_token_in_a_message_stays_text(token):
    plain, forged = (TOKENIZER.encode_chat(chat(text)).tolist() for text in ("ab", f"a{token}b"))
    controls = set(TOKENIZER.control_tokens.values())
    assert [i for i in forged if i in controls] == [i for i in plain if i in controls]
    assert f"a{token}b" in TOKENIZER.decode(forged)


def test_a_chat_prompt_ends_where_the_answer_begins_without_thinking():
    ids = TOKENIZER.encode_chat(chat("hi")).tolist()
    whole = tokenizers.Tokenizer.from_file(str(qwen_tokenizer_dir() / "tokenizer.json"))
    text = whole.decode(ids, skip_special_tokens=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_each_content_is_passed_to_check_length():
    seen = []
    TOKENIZER.encode_chat(chat("hello"), seen.append)
    assert seen == ["hello"]


def test_ids_beyond_the_vocabulary_give_no_text():
    assert TOKENIZER.decode([9707, 151_900, 10**6]) == "Hello"


@pytest.mark.parametrize("backend", [FastokensBackend, ReferenceBackend])
def test_ids_outside_the_vocabulary_give_no_text_in_either_library(backend):
    small = backend(TokenizerFile.read(EMBEDDED).ordinary_json)
    ids = small.encode("Hello").tolist()
    for token_id in (-1, 4072, 2**31 - 1, 2**40):
        assert small.decode([*ids, token_id]) == "Hello"


def test_an_added_token_that_is_not_special_is_text_when_decoded():
    tokenizer = Tokenizer.load(EMBEDDED)
    think, end = (tokenizer.control_tokens[text] for text in ("<think>", "<|im_end|>"))
    assert tokenizer.decode([think, end]) == "<think>"


def test_a_tokenizer_that_neither_library_supports_is_a_value_error():
    with pytest.raises(ValueError, match=r"^tokenizer\.json: "):
        choose_backend("{}")


def test_an_unpaired_surrogate_is_a_value_error():
    for method in (TOKENIZER.encode_text, TOKENIZER.min_tokens_of):
        with pytest.raises(ValueError, match="surrogates"):
            method("é\ud800")


def test_broken_utf8_becomes_the_replacement_character():
    first, *rest = TOKENIZER.encode_text("\U0001fad9").tolist()
    assert rest
    assert TOKENIZER.decode([first]) == "\ufffd"


def test_nfc_keeps_at_least_each_ascii_byte_and_a_quarter_of_the_others():
    # Count in quarter bytes: distribute each character's bytes equally over the characters that it decomposes into.
    # NFC composes each character from such pieces, whose total must not exceed the composed character's own bytes.
    characters = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    composed = {c: d for c in characters if (d := unicodedata.normalize("NFD", c)) != c}
    worth: dict[str, float] = {
        piece: 4 if piece.isascii() else len(piece.encode()) for d in composed.values() for piece in d
    }
    for character, pieces in composed.items():
        for piece in pieces:
            worth[piece] = max(worth[piece], len(character.encode()) / len(pieces))
    assert [piece for piece, quarters in worth.items() if quarters > 4 * len(piece.encode())] == []
    for character, pieces in composed.items():
        if unicodedata.is_normalized("NFC", character):
            assert sum(worth[piece] for piece in pieces) <= 4 * len(character.encode()), hex(ord(character))


def test_the_lower_bound_holds_for_text_that_nfc_shrinks():
    shrinks = "\u1fbe\u0308\u0301" * 1000  # 7 bytes become 2
    assert TOKENIZER.min_tokens_of(shrinks) <= len(unicodedata.normalize("NFC", shrinks).encode()) // 128


def test_a_process_with_the_real_vocabulary_stays_below_200_mib():
    program = (
        "import sys, pathlib, numpy, orjson, pydantic, jsonschema_rs, structlog\n"
        "from llm_policy.text.tokenizer import Tokenizer\n"
        "tokenizer = Tokenizer.load(pathlib.Path(sys.argv[1]))\n"
        "tokenizer.decode(tokenizer.encode_text('Hello world, once more. ' * 100).tolist())\n"
        "status = dict(line.split(':') for line in open('/proc/self/status') if ':' in line)\n"
        "print(int(status['VmRSS'].split()[0]) // 1024, int(status['Threads']))\n"
    )
    command = [sys.executable, "-c", program, str(qwen_tokenizer_dir())]
    printed = subprocess.run(command, capture_output=True, check=True, text=True, env=SUBPROCESS_ENVIRONMENT)
    rss_mib, num_threads = map(int, printed.stdout.split())
    assert rss_mib < 200
    assert num_threads <= 2


MALFORMED = {
    "not JSON": b"{",
    "5 MB": b"[" + b" " * 5_000_000 + b"]",
    "not UTF-8": b"[\xff]",
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
    "an unpaired surrogate": b'[{"role":"user","content":"\\ud800"}]',
    "100,000 brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_messages_are_rejected(raw):
    with pytest.raises(InvalidRequest, match=r"^invalid_input: messages"):
        TOKENIZER.encode_chat(raw)
