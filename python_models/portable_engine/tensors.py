"""Conversion between the tensors of TensorRT-LLM's Triton model and the engine's requests and sequences.

Pure functions on numpy arrays. Requests are read on Triton's thread, responses written on the decode thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from portable_engine.sequence import GenerationRequest, SamplingParams, Sequence

Array = npt.NDArray[Any]

# Input tensor → field of SamplingParams.
_SAMPLING = {
    "temperature": "temperature",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "min_tokens": "min_tokens",
    "seed": "seed",
}


class RequestError(ValueError):
    """The request's tensors can't be served; the text says which and why."""


def read_requests(arrays: Mapping[str, Array], max_tokens: int, vocab_size: int) -> list[GenerationRequest]:
    """One generation request per row; scalar tensors are [rows] or [rows, 1].

    `max_tokens` is the model's limit for prompt and completion together; token ids must be below `vocab_size`.

    Raises:
        RequestError: more than one beam, too many tokens, or a value that would fail the step of all sequences.
    """
    if (beams := arrays.get("beam_width")) is not None and (beams != 1).any():
        raise RequestError(f"beam_width is {int(beams.max())}, only 1 is supported")
    num_rows = len(arrays["input_ids"])
    requests = [_read_row(arrays, row, max_tokens) for row in range(num_rows)]
    for request in requests:
        _check(request, vocab_size)
    return requests


def _read_row(arrays: Mapping[str, Array], row: int, max_tokens: int) -> GenerationRequest:
    length = int(_scalar(arrays, "input_lengths", row, 0))
    max_new_tokens = int(_scalar(arrays, "request_output_len", row, 0))
    if not 1 <= length <= arrays["input_ids"].shape[1] or max_new_tokens < 1:
        raise RequestError(f"input_lengths {length} and request_output_len {max_new_tokens} must both be at least 1")
    if length + max_new_tokens > max_tokens:
        raise RequestError(f"prompt {length} and output {max_new_tokens} tokens exceed the model's {max_tokens}")
    return GenerationRequest(
        prompt_token_ids=arrays["input_ids"][row, :length].tolist(),
        max_new_tokens=max_new_tokens,
        end_id=int(_scalar(arrays, "end_id", row, -1)),
        sampling=SamplingParams(
            **{field: arrays[name].reshape(-1)[row].item() for name, field in _SAMPLING.items() if name in arrays}
        ),
        stop_words=_words(arrays, "stop_words_list", row),
        bad_words=_words(arrays, "bad_words_list", row),
        guide_type=_text(arrays, "guided_decoding_guide_type", row),
        guide=_text(arrays, "guided_decoding_guide", row),
        return_log_probs=bool(_scalar(arrays, "return_log_probs", row, False)),
    )


def _check(request: GenerationRequest, vocab_size: int) -> None:
    bad_ids = [token_id for word in request.bad_words for token_id in word]
    for name, token_ids in (("input_ids", request.prompt_token_ids), ("bad_words_list", bad_ids)):
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            raise RequestError(
                f"{name} has ids from {min(token_ids)} to {max(token_ids)}, allowed 0 to {vocab_size - 1}"
            )
    if request.end_id >= vocab_size:
        raise RequestError(f"end_id is {request.end_id}, allowed up to {vocab_size - 1}")
    if not request.sampling.repetition_penalty > 0.0:
        raise RequestError(f"repetition_penalty is {request.sampling.repetition_penalty:g}, it must be above 0")


def _scalar(arrays: Mapping[str, Array], name: str, row: int, default: Any) -> Any:
    return arrays[name].reshape(-1)[row] if name in arrays else default


def _text(arrays: Mapping[str, Array], name: str, row: int) -> str:
    value = _scalar(arrays, name, row, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _words(arrays: Mapping[str, Array], name: str, row: int) -> tuple[tuple[int, ...], ...]:
    """One row's word list [2, n]: first all words' token ids, then each word's end offset, padded with -1."""
    if name not in arrays:
        return ()
    ids, ends = arrays[name][row].tolist()
    starts = [0, *ends]
    return tuple(tuple(ids[start:end]) for start, end in zip(starts, ends, strict=False) if end > start)


def write_response(
    sequences: list[Sequence], *, pad_id: int, includes_prompt: bool, returns_log_probs: bool
) -> dict[str, Array]:
    """The output tensors for the rows of one request.

    output_ids [rows, 1, tokens], sequence_length [rows, 1], timestamps in nanoseconds [rows, 1]. As in TensorRT-LLM, a
    stop word is part of the output and `end_id` is not (its sampling kernels do not count it).
    """
    rows = [(s.request.prompt_token_ids if includes_prompt else []) + s.output_token_ids for s in sequences]
    arrays: dict[str, Array] = {
        "output_ids": _pad(rows, pad_id, np.int32)[:, None, :],
        "sequence_length": np.array([[len(row)] for row in rows], np.int32),
        "num_input_tokens": np.array([[s.num_prompt_tokens] for s in sequences], np.int32),
        "num_output_tokens": np.array([[len(s.output_token_ids)] for s in sequences], np.int32),
    }
    for clock in ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"):
        arrays[clock] = np.array([[getattr(s, clock)] for s in sequences], np.int64)
    if returns_log_probs:
        arrays["cum_log_probs"] = np.array([[sum(s.log_probs)] for s in sequences], np.float32)
        log_probs = [s.log_probs[: len(s.output_token_ids)] for s in sequences]
        arrays["output_log_probs"] = _pad(log_probs, 0.0, np.float32)[:, None, :]
    return arrays


def _pad(rows: list[list[Any]], filler: Any, data_type: Any) -> Array:
    padded = np.full((len(rows), max(map(len, rows))), filler, data_type)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
