"""Reading tokenizer directories, and rejecting unsupported ones."""

import json
import shutil

import pytest

from llm_policy.text.tokenizer import Tokenizer
from llm_policy.text.tokenizer_file import TokenizerFile
from llmstack.paths import DEFAULT_RELEASE_DIR

EMBEDDED = DEFAULT_RELEASE_DIR / "tokenizer"


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(EMBEDDED, tmp_path / "tokenizer")


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_the_embedded_tokenizer_is_read_completely():
    file = TokenizerFile.read(EMBEDDED)
    assert (file.vocab_size, len(file.added_tokens), file.normalizes) == (4096, 26, True)
    assert file.named_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert file.id_of("eos_token") == file.added_tokens["<|im_end|>"]


def test_truncation_and_padding_in_the_file_have_no_effect(directory):
    def edit(document):
        document["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
        document["padding"] = {
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        }

    text = "one two three four five"
    expected = Tokenizer.load(directory).encode_text(text).tolist()
    change(directory / "tokenizer.json", edit)
    assert Tokenizer.load(directory).encode_text(text).tolist() == expected


def test_without_a_pad_token_the_end_token_is_used(directory):
    change(directory / "tokenizer_config.json", lambda config: config.pop("pad_token"))
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.pad_id == tokenizer.eos_id


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: [{"name": "default", "template": text}]])
def test_the_chat_template_may_be_in_the_configuration(directory, wrap):
    text = (directory / "chat_template.jinja").read_text()
    (directory / "chat_template.jinja").unlink()
    change(directory / "tokenizer_config.json", lambda config: config.update(chat_template=wrap(text)))
    assert TokenizerFile.read(directory).chat_template == text


UNSUPPORTED = {
    "model.type is Unigram": lambda d: d["model"].update(type="Unigram"),
    "model.dropout is 0.1": lambda d: d["model"].update(dropout=0.1),
    "model.byte_fallback is True": lambda d: d["model"].update(byte_fallback=True),
    "normalizer is NFKC": lambda d: d["normalizer"].update(type="NFKC"),
    "pre_tokenizer is Metaspace": lambda d: d["pre_tokenizer"].update(type="Metaspace"),
    "pre_tokenizer.add_prefix_space is True": lambda d: d["pre_tokenizer"]["pretokenizers"][-1].update(
        add_prefix_space=True
    ),
    "decoder is Metaspace": lambda d: d["decoder"].update(type="Metaspace"),
    "rstrip is True": lambda d: d["added_tokens"][0].update(rstrip=True),
    "white space is True": lambda d: d["added_tokens"][0].update(content="  "),
    "not a tokenizer directory": lambda d: d.pop("model"),
}


@pytest.mark.parametrize(("text", "edit"), UNSUPPORTED.items(), ids=UNSUPPORTED.keys())
def test_an_unsupported_tokenizer_is_rejected_with_the_reason(directory, text, edit):
    change(directory / "tokenizer.json", edit)
    with pytest.raises(ValueError, match=text):
        Tokenizer.load(directory)


BROKEN = {
    "tokenizer.json: invalid JSON": ("tokenizer.json", "{"),
    "tokenizer.json: not a JSON object": ("tokenizer.json", "[]"),
    "eos_token is not an added token": ("tokenizer_config.json", '{"eos_token": "x"}'),
    "the chat template does not compile": ("chat_template.jinja", "{% for %}"),
}


@pytest.mark.parametrize(("text", "file"), BROKEN.items(), ids=BROKEN.keys())
def test_a_broken_file_is_a_value_error(directory, text, file):
    name, content = file
    (directory / name).write_text(content)
    with pytest.raises(ValueError, match=text):
        Tokenizer.load(directory)
