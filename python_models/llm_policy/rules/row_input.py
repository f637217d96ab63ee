"""One row of an inference request, unpacked from the ensemble's input arrays; checks shapes and encodings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_policy.errors import invalid_input

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
else:
    Array = Any  # the command line reads names of headers and inputs without numpy

MAX_BATCH_ROWS = 4
_NUMBERS = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_tokens", "seed"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    )
)
_TEXTS = {"task": "task", "schema_id": "schema_id", "guided_decoding_guide_type": "guide_type"}
_TEXTS["guided_decoding_guide"] = "guide"
_WORDS = frozenset(("stop_words", "bad_words"))
_INTEGERS = frozenset(("max_tokens", "end_id", "pad_id"))
# Always on, whatever the client sends: the ledger needs all three.
_ALWAYS_ON = frozenset(("return_num_input_tokens", "return_num_output_tokens", "return_perf_metrics"))
_SWITCHES = frozenset(("return_log_probs", "exclude_input_in_output", "stream"))
# Every input of both models, in the order of an alphabet.
INPUT_NAMES = tuple(
    sorted({"text_input", "messages", "beam_width", *_TEXTS, *_NUMBERS, *_WORDS, *_INTEGERS, *_SWITCHES, *_ALWAYS_ON})
)


@dataclass
class RowInput:
    """The inputs of one row. None means that the client did not send the input."""

    text_input: str | None = None
    messages: bytes | None = None
    task: str | None = None
    schema_id: str | None = None
    guide_type: str | None = None
    guide: str | None = None
    max_tokens: int | None = None
    end_id: int | None = None
    pad_id: int | None = None
    stop_words: list[str] = field(default_factory=list)
    bad_words: list[str] = field(default_factory=list)
    stream: bool | None = None
    return_log_probs: bool = False
    exclude_input_in_output: bool = True
    sampling: dict[str, float] = field(default_factory=dict)


def unpack_rows(inputs: Mapping[str, Array]) -> list[RowInput]:
    """The rows of one request. Every array is [rows, 1]; `stop_words` and `bad_words` are [rows, n].

    Raises:
        InvalidRequest: `invalid_input`.
    """
    if "text_input" in inputs and "messages" in inputs:
        raise invalid_input("both text_input and messages were given, exactly one is required")
    prompt = inputs.get("text_input", inputs.get("messages"))
    if prompt is None:
        raise invalid_input("neither text_input nor messages was given, exactly one is required")
    num_rows = prompt.shape[0] if prompt.ndim else 0
    if not 1 <= num_rows <= MAX_BATCH_ROWS:
        raise invalid_input(f"the batch has {num_rows} rows, allowed 1 to {MAX_BATCH_ROWS}")
    row_inputs = [RowInput() for _ in range(num_rows)]
    for name, array in inputs.items():
        _check_shape(name, array, num_rows)
        for row_input, values in zip(row_inputs, array.tolist(), strict=True):
            _set(row_input, name, values)
    return row_inputs


def _check_shape(name: str, array: Array, num_rows: int) -> None:
    if array.ndim != 2 or array.shape[0] != num_rows or (name not in _WORDS and array.shape[1] != 1):
        expected = f"[{num_rows}, n]" if name in _WORDS else f"[{num_rows}, 1]"
        raise invalid_input(f"{name} has shape {list(array.shape)}, {expected} is required")


def _set(row_input: RowInput, name: str, values: list[Any]) -> None:
    if name in _NUMBERS:
        row_input.sampling[name] = values[0]
    elif name in _TEXTS:
        setattr(row_input, _TEXTS[name], _text(name, values[0]))
    elif name in _WORDS:
        setattr(row_input, name, [_text(name, word) for word in values])
    elif name in _INTEGERS:
        setattr(row_input, name, values[0])
    elif name == "text_input":
        row_input.text_input = _text(name, values[0])
    elif name == "messages":
        row_input.messages = values[0]
    elif name not in _ALWAYS_ON:
        _set_switch(row_input, name, values[0])


def _set_switch(row_input: RowInput, name: str, value: Any) -> None:
    if name in _SWITCHES:
        setattr(row_input, name, bool(value))
    elif name == "beam_width":
        if value != 1:
            raise invalid_input(f"beam_width is {value}, only 1 is allowed")
    else:
        raise invalid_input(f"unknown input {name[:64]!a}")


def _text(name: str, value: Any) -> str:
    try:
        return value if isinstance(value, str) else bytes(value).decode()
    except (UnicodeDecodeError, TypeError, ValueError):
        raise invalid_input(f"{name} is not valid UTF-8") from None
