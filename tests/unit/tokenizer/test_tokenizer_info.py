"""The tokenizer info: three keys, every token at its own id, and no input that would weaken guided decoding."""

import json

import pytest

from llmstack.tokenizer.tokenizer_info import TokenizerInfoError, build_info, check_info, info_bytes
from tests.releases import TOKENIZER, write_tokenizer


def tokenizer(vocab=None, added=None):
    model = {"type": "BPE", "vocab": TOKENIZER["model"]["vocab"] if vocab is None else vocab}
    return {"model": model, "added_tokens": TOKENIZER["added_tokens"] if added is None else added}


def added(content, token_id):
    return {"content": content, "id": token_id}


def test_the_info_has_exactly_the_three_keys(tmp_path):
    directory = write_tokenizer(tmp_path / "tokenizer")
    assert build_info(directory) == {
        "encoded_vocab": ["a", "b", "ab", "<|end|>"],
        "tokenizer_str": (directory / "tokenizer.json").read_text(),
        "stop_token_ids": [3],
    }


def test_the_same_tokenizer_gives_the_same_bytes(tmp_path):
    first = write_tokenizer(tmp_path / "a")
    second = write_tokenizer(tmp_path / "b")
    assert info_bytes(build_info(first)) == info_bytes(build_info(second))


def test_tokens_are_in_order_of_their_ids(tmp_path):
    directory = write_tokenizer(tmp_path, tokenizer({"z": 2, "y": 0, "x": 1}, [added("<|end|>", 3)]))
    assert build_info(directory)["encoded_vocab"] == ["y", "x", "z", "<|end|>"]


def test_an_id_without_a_token_keeps_its_place_as_an_empty_string(tmp_path):
    directory = write_tokenizer(tmp_path, tokenizer({"a": 0, "b": 2}, [added("<|end|>", 6)]))
    assert build_info(directory)["encoded_vocab"] == ["a", "", "b", "", "", "", "<|end|>"]


def test_an_added_token_may_repeat_its_entry_of_the_vocabulary(tmp_path):
    directory = write_tokenizer(tmp_path, tokenizer({"a": 0, "<|end|>": 1}, [added("<|end|>", 1)]))
    assert build_info(directory)["encoded_vocab"] == ["a", "<|end|>"]


def test_line_ends_of_the_tokenizer_are_preserved(tmp_path):
    directory = write_tokenizer(tmp_path)
    raw = json.dumps(TOKENIZER, indent=1).replace("\n", "\r\n").encode()
    (directory / "tokenizer.json").write_bytes(raw)
    assert build_info(directory)["tokenizer_str"].encode() == raw


@pytest.mark.parametrize("eos", ["<|end|>", {"content": "<|end|>", "special": True}])
def test_the_eos_token_of_the_tokenizer_is_the_only_stop_token(tmp_path, eos):
    configs = {"tokenizer_config": {"eos_token": eos}, "generation_config": {"eos_token_id": [3, 0]}}
    assert build_info(write_tokenizer(tmp_path, **configs))["stop_token_ids"] == [3]


@pytest.mark.parametrize(("eos", "ids"), [(3, [3]), ([3, 2], [3, 2])])
def test_without_an_eos_token_the_generation_config_gives_the_stop_tokens(tmp_path, eos, ids):
    configs = {"tokenizer_config": {"eos_token": None}, "generation_config": {"eos_token_id": eos}}
    assert build_info(write_tokenizer(tmp_path, **configs))["stop_token_ids"] == ids


@pytest.mark.parametrize(
    ("content", "configs", "text"),
    [
        (tokenizer({}, []), {}, r"model\.vocab: must be an object of token → id"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0]]}}, {}, r"model\.vocab: must be an object of token → id"),
        ({"model": []}, {}, r"model\.vocab: must be an object of token → id"),
        (tokenizer(added=[{"content": "x"}]), {}, "added_tokens: must be a list of objects with content and id"),
        (tokenizer(added=[added("<|end|>", 1)]), {}, "id 1 belongs to 'b' and to '<|end|>'"),
        (tokenizer(added=[added("ab", 3)]), {}, "'ab' has the ids 2 and 3"),
        (tokenizer(added=[added("<|end|>", -1)]), {}, r"token '<\|end\|>' has id -1, allowed 0 to 3999999"),
        (tokenizer(added=[added("<|end|>", 10**12)]), {}, r"has id 1000000000000, allowed 0 to 3999999"),
        (None, {"tokenizer_config": {"eos_token": "</s>"}}, "eos_token: '</s>' is not a token of tokenizer.json"),
        (None, {"generation_config": {"eos_token_id": 9}}, "eos_token_id: 9 is not an id of tokenizer.json"),
        (None, {"generation_config": {"eos_token_id": []}}, "no stop token"),
        (None, {"tokenizer_config": {}}, "no stop token"),
        (None, {"tokenizer_config": []}, r"tokenizer_config\.json: must be a JSON object, is list"),
    ],
)
def test_a_tokenizer_that_would_weaken_guided_decoding_is_rejected(tmp_path, content, configs, text):
    with pytest.raises(TokenizerInfoError, match=text.replace("<|end|>", r"<\|end\|>")):
        build_info(write_tokenizer(tmp_path, content, **configs))


def test_the_error_of_a_missing_tokenizer_names_the_file(tmp_path):
    with pytest.raises(TokenizerInfoError, match=r"tokenizer\.json: No such file or directory"):
        build_info(tmp_path)


def test_the_error_of_a_tokenizer_that_is_not_json_names_the_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerInfoError, match=r"tokenizer\.json: not JSON"):
        build_info(tmp_path)


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({}, []),
        ({"more": 1}, ["more: unknown key"]),
        ({"stop_token_ids": [2]}, ["stop_token_ids: file has [2], tokenizer has [3]"]),
        (
            {"encoded_vocab": ["a", "x", "y"]},
            [
                "encoded_vocab: has 3 entries, the tokenizer has 4",
                "encoded_vocab[1]: file has 'x', tokenizer has 'b'",
                "encoded_vocab[2]: file has 'y', tokenizer has 'ab'",
            ],
        ),
        ({"encoded_vocab": {}}, ["encoded_vocab: must be a list, is dict"]),
        ({"tokenizer_str": 1}, ["tokenizer_str: must be a string, is int"]),
    ],
)
def test_every_difference_is_listed(tmp_path, change, differences):
    directory = write_tokenizer(tmp_path / "tokenizer")
    path = tmp_path / "info.json"
    path.write_text(json.dumps({**build_info(directory), **change}))
    assert check_info(path, directory) == differences


def test_a_missing_key_is_listed(tmp_path):
    directory = write_tokenizer(tmp_path / "tokenizer")
    info = build_info(directory)
    del info["tokenizer_str"]
    (tmp_path / "info.json").write_text(json.dumps(info))
    assert check_info(tmp_path / "info.json", directory) == ["tokenizer_str: missing"]


def test_a_changed_tokenizer_text_is_reported_with_its_position(tmp_path):
    directory = write_tokenizer(tmp_path / "tokenizer")
    info = build_info(directory)
    info["tokenizer_str"] = info["tokenizer_str"].replace("BPE", "BPX")
    (tmp_path / "info.json").write_text(json.dumps(info))
    (difference,) = check_info(tmp_path / "info.json", directory)
    assert difference.startswith("tokenizer_str: differs from tokenizer.json at character 22: file has 'X")
