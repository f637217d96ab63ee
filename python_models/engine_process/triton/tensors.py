"""Conversion between the tensors of TensorRT-LLM's Triton model and the protocol's messages; pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine_process.messages import Capabilities, End, Generate, Guide, Sampling, read_ids, read_log_probs
from portable_engine.guide_types import guide_backend

Array = npt.NDArray[Any]

# Input tensor → field of Sampling.
_SAMPLING = {
    "temperature": "temperature",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}


# The first two elements of a record: texts without line breaks, in JSON.
_REQUEST_ID_AND_TENANT = re.compile(rb'\["(?:[^"\\]|\\.)*",("(?:[^"\\]|\\.)*")')


class RequestError(ValueError):
    """The request's tensors can't be served; the text says which and why."""

    def __init__(self, detail: str, code: str = "invalid_input") -> None:
        super().__init__(detail)
        self.code = code


def read_requests(arrays: Mapping[str, Array], capabilities: Capabilities) -> list[Generate]:
    """One request per row; scalar tensors are [rows] or [rows, 1].

    Raises:
        RequestError: more than one beam, more tokens than the engine takes, or ids outside its vocabulary.
    """
    if (beams := arrays.get("beam_width")) is not None and (beams != 1).any():
        raise RequestError(f"beam_width is {int(beams.max())}, only 1 is supported")
    num_rows = len(arrays["input_ids"])
    ledger_ids = read_ledger_ids(arrays, num_rows)
    return [_read_row(arrays, row, capabilities, ledger_ids[row]) for row in range(num_rows)]


def _read_row(arrays: Mapping[str, Array], row: int, capabilities: Capabilities, ledger_id: int) -> Generate:
    length = int(_scalar(arrays, "input_lengths", row, 0))
    max_tokens = int(_scalar(arrays, "request_output_len", row, 0))
    if not 1 <= length <= arrays["input_ids"].shape[1] or max_tokens < 1:
        raise RequestError(f"input_lengths {length} and request_output_len {max_tokens} must both be at least 1")
    limit = capabilities.max_model_len
    if limit and length + max_tokens > limit:
        raise RequestError(f"prompt {length} and output {max_tokens} tokens exceed the model's {limit}")
    input_ids = arrays["input_ids"][row, :length]
    request = Generate(
        id=0,
        input_ids=np.ascontiguousarray(input_ids, np.int32).tobytes(),
        max_tokens=max_tokens,
        min_tokens=int(_scalar(arrays, "min_tokens", row, 1)),
        sampling=Sampling(
            **{field: arrays[name].reshape(-1)[row].item() for name, field in _SAMPLING.items() if name in arrays}
        ),
        stop_sequences=_words(arrays, "stop_words_list", row),
        bad_sequences=_words(arrays, "bad_words_list", row),
        end_id=int(_scalar(arrays, "end_id", row, -1)),
        guide=_read_guide(arrays, row),
        log_probs=bool(_scalar(arrays, "return_log_probs", row, False)),
        ledger_id=ledger_id,
    )
    _check(request, input_ids, capabilities)
    return request


def _read_guide(arrays: Mapping[str, Array], row: int) -> Guide | None:
    kind = _text(arrays, "guided_decoding_guide_type", row)
    if not kind:
        return None
    return Guide(guide_backend(kind), kind, _text(arrays, "guided_decoding_guide", row))


def _check(request: Generate, input_ids: Array, capabilities: Capabilities) -> None:
    if request.guide is not None and request.guide.kind not in capabilities.guide_types:
        allowed = ", ".join(capabilities.guide_types) or "none"
        raise RequestError(f"unknown guide type, allowed: {allowed}", "schema_invalid")
    if not request.sampling.repetition_penalty > 0.0:
        raise RequestError(f"repetition_penalty is {request.sampling.repetition_penalty:g}, it must be above 0")
    vocab_size = capabilities.vocab_size
    if not vocab_size:
        return
    bad_ids = [token_id for word in request.bad_sequences for token_id in word]
    for name, token_ids in (("input_ids", input_ids), ("bad_words_list", np.array(bad_ids, np.int64))):
        if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < vocab_size:
            raise RequestError(
                f"{name} has ids from {token_ids.min()} to {token_ids.max()}, allowed 0 to {vocab_size - 1}"
            )
    if request.end_id >= vocab_size:
        raise RequestError(f"end_id is {request.end_id}, allowed up to {vocab_size - 1}")


def read_ledger_ids(arrays: Mapping[str, Array], num_rows: int) -> list[int]:
    """The ledger's id of each row, 0 where it is not known: the last element of the JSON array in `policy_decision`."""
    decisions = arrays.get("policy_decision")
    if decisions is None or len(decisions) != num_rows:
        return [0] * num_rows
    return [_last_number(row.tobytes()) for row in decisions]


def read_tenant(arrays: Mapping[str, Array]) -> str:
    """The tenant that the policy found: the second element in `policy_decision`, the same in every row of a request.

    Empty if it is not known. Only the beginning is read: a guide of 256 KiB may follow.
    """
    decisions = arrays.get("policy_decision")
    found = _REQUEST_ID_AND_TENANT.match(decisions[0].tobytes()) if decisions is not None and len(decisions) else None
    return "" if found is None else str(json.loads(found[1]))


def _last_number(text: bytes) -> int:
    last = text.rstrip().removesuffix(b"]").rpartition(b",")[2]
    return int(last) if last.isdigit() else 0


def _scalar(arrays: Mapping[str, Array], name: str, row: int, default: Any) -> Any:
    return arrays[name].reshape(-1)[row] if name in arrays else default


def _text(arrays: Mapping[str, Array], name: str, row: int) -> str:
    value = _scalar(arrays, name, row, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _words(arrays: Mapping[str, Array], name: str, row: int) -> list[list[int]]:
    """One row's word list [2, n]: first all words' token ids, then each word's end offset, padded with -1."""
    if name not in arrays:
        return []
    ids, ends = arrays[name][row].tolist()
    starts = [0, *ends]
    return [ids[start:end] for start, end in zip(starts, ends, strict=False) if end > start]


@dataclass
class CompletedRow:
    """One row's completion: `ids` and `log_probs` as the protocol carries them."""

    ids: bytes = b""
    log_probs: bytes = b""
    end: End | None = None


def write_response(
    rows: Sequence[CompletedRow], prompts: Sequence[Generate], *, pad_id: int, includes_prompt: bool
) -> dict[str, Array]:
    """The output tensors for the rows of one request.

    output_ids [rows, 1, tokens], sequence_length [rows, 1], timestamps in nanoseconds [rows, 1]. As in TensorRT-LLM, a
    stop word is part of the output and `end_id` is not (its sampling kernels do not count it).
    """
    ends = [row.end for row in rows if row.end is not None]
    ids = [read_ids((p.input_ids if includes_prompt else b"") + row.ids) for row, p in zip(rows, prompts, strict=True)]
    arrays: dict[str, Array] = {
        "output_ids": _pad(ids, pad_id, np.int32)[:, None, :],
        "sequence_length": _column([len(row) for row in ids], np.int32),
        "num_input_tokens": _column([end.num_input_tokens for end in ends], np.int32),
        "num_output_tokens": _column([end.num_output_tokens for end in ends], np.int32),
        "arrival_time_ns": _column([end.arrival_ns for end in ends], np.int64),
        "first_scheduled_time_ns": _column([end.first_scheduled_ns for end in ends], np.int64),
        "first_token_time_ns": _column([end.first_token_ns for end in ends], np.int64),
        "last_token_time_ns": _column([end.last_token_ns for end in ends], np.int64),
    }
    if any(prompt.log_probs for prompt in prompts):
        arrays["cum_log_probs"] = _column([end.cum_log_prob for end in ends], np.float32)
        arrays["output_log_probs"] = _pad([read_log_probs(row.log_probs) for row in rows], 0.0, np.float32)[:, None, :]
    return arrays


def _column(values: list[Any], data_type: Any) -> Array:
    return np.array(values, data_type).reshape(-1, 1)


def _pad(rows: list[list[Any]], filler: Any, data_type: Any) -> Array:
    padded = np.full((len(rows), max(map(len, rows))), filler, data_type)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
