"""The tokenizer: Qwen3's rules and control tokens with a small vocabulary trained on the corpus and on examples."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from embedded_model.examples.corpus import corpus_lines
from embedded_model.examples.generator import generate_example
from embedded_model.examples.value_sampler import ValueSampler
from llm_policy.release.manifest import TASKS

VOCAB_SIZE = 4_096
MAX_LENGTH = 8_192
_NUM_EXAMPLES = 3_000
EOS, PAD = "<|im_end|>", "<|endoftext|>"

# Qwen3's added tokens in the order of its ids. Only the first group is "special", that is left out of decoded text.
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN_TOKENS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def train_tokenizer() -> Tokenizer:
    """Train the tokenizer. The result is the same every time.

    Raises:
        RuntimeError: the corpus has too few words for `VOCAB_SIZE` entries.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)  # type: ignore[call-arg]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS) - len(PLAIN_TOKENS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(chain(corpus_lines(), _example_text()), trainer)
    tokenizer.add_tokens([_added_token(text) for text in (*SPECIAL_TOKENS, *PLAIN_TOKENS)])
    if (size := tokenizer.get_vocab_size()) != VOCAB_SIZE:
        raise RuntimeError(f"the corpus gives {size} vocabulary entries, {VOCAB_SIZE} are needed: add words")
    return tokenizer


def _example_text() -> Iterator[str]:
    """Prompts and answers of training examples."""
    sampler = ValueSampler(random.Random(0), is_held_out=False)  # noqa: S311
    for number in range(_NUM_EXAMPLES):
        example = generate_example(TASKS[number % len(TASKS)], sampler)
        yield from (example.system, example.user, example.answer_text)


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_bytes(tokenizer.to_str(pretty=True).encode() + b"\n")
    config = json.dumps(_config(tokenizer), indent=2) + "\n"
    (directory / "tokenizer_config.json").write_bytes(config.encode())
    (directory / "chat_template.jinja").write_bytes(CHAT_TEMPLATE.encode())


def added_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Added token → id."""
    return {added.content: token_id for token_id, added in tokenizer.get_added_tokens_decoder().items()}


def _added_token(text: str) -> AddedToken:
    return AddedToken(text, normalized=False, special=text in SPECIAL_TOKENS)


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(text)): {
                "content": text,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": text in SPECIAL_TOKENS,
            }
            for text in (*SPECIAL_TOKENS, *PLAIN_TOKENS)
        },
        "additional_special_tokens": [text for text in SPECIAL_TOKENS if text not in (EOS, PAD)],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "errors": "replace",
        "model_max_length": MAX_LENGTH,
        "pad_token": PAD,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
