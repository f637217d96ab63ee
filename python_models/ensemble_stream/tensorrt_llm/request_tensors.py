"""A request as the tensors of TensorRT-LLM's Triton model, for NVIDIA's gRPC client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from engine_process.messages import Generate, Sampling
from llm_policy.text.words import pack_words

OUTPUTS = (
    *("output_ids", "sequence_length", "cum_log_probs", "output_log_probs"),
    *("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"),
)
Array = npt.NDArray[Any]
_NEUTRAL = Sampling()
# Field of Sampling → input tensor and its data type.
_SAMPLING = {
    "repetition_penalty": ("repetition_penalty", np.float32),
    "presence_penalty": ("presence_penalty", np.float32),
    "frequency_penalty": ("frequency_penalty", np.float32),
    "seed": ("seed", np.uint64),
}


def request_arrays(request: Generate) -> dict[str, Array]:
    """The tensors of a streamed request, each with a first dimension of 1. An absent tensor keeps the default."""
    prompt = np.frombuffer(request.input_ids, np.int32).reshape(1, -1)
    arrays = {
        "input_ids": prompt,
        "input_lengths": _scalar(prompt.shape[1], np.int32),
        "request_output_len": _scalar(request.max_tokens, np.int32),
        "min_tokens": _scalar(request.min_tokens, np.int32),
        "streaming": _scalar(True, np.bool_),
        "exclude_input_in_output": _scalar(True, np.bool_),
        "return_perf_metrics": _scalar(True, np.bool_),
        "return_log_probs": _scalar(request.log_probs, np.bool_),
        **_sampling_arrays(request.sampling),
    }
    if request.end_id >= 0:
        arrays["end_id"] = _scalar(request.end_id, np.int32)
    for name, words in (("stop_words_list", request.stop_sequences), ("bad_words_list", request.bad_sequences)):
        if words:
            arrays[name] = pack_words([tuple(map(tuple, words))])
    if request.guide is not None:
        arrays["guided_decoding_guide_type"] = _scalar(request.guide.kind.encode(), np.object_)
        arrays["guided_decoding_guide"] = _scalar(request.guide.text.encode(), np.object_)
    return arrays


def infer_inputs(arrays: dict[str, Array]) -> list[InferInput]:
    """The tensors as NVIDIA's client sends them."""
    inputs = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    return inputs


def requested_outputs(names: Iterable[str] = OUTPUTS) -> list[InferRequestedOutput]:
    """The outputs that a stream needs."""
    return [InferRequestedOutput(name) for name in names]


def _sampling_arrays(sampling: Sampling) -> dict[str, Array]:
    arrays = {"runtime_top_k": _scalar(sampling.top_k, np.int32)}
    if sampling.top_k != 1:
        arrays["temperature"] = _scalar(sampling.temperature, np.float32)
        arrays["runtime_top_p"] = _scalar(sampling.top_p, np.float32)
    for field, (name, data_type) in _SAMPLING.items():
        if (value := getattr(sampling, field)) != getattr(_NEUTRAL, field):
            arrays[name] = _scalar(value, data_type)
    return arrays


def _scalar(value: Any, data_type: Any) -> Array:
    return np.array([[value]], data_type)
