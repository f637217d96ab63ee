"""Every tensor of the ensemble: name, Triton type, dims without the batch dimension.

This is the only module that lists both the tensor names of TensorRT-LLM's Triton backend (tags 25.09-26.07) and ours.
`tests/contract` compares it with every `config.pbtxt`.
"""

from __future__ import annotations

from typing import NamedTuple


class TensorSpec(NamedTuple):
    """One tensor. `dims` is without the batch dimension; -1 means any length."""

    name: str
    data_type: str
    dims: tuple[int, ...] = (1,)


# Names and types are those of the stock TensorRT-LLM ensemble, except for our own `messages`, `task` and `schema_id`.
ENSEMBLE_INPUTS = (
    TensorSpec("text_input", "TYPE_STRING"),
    TensorSpec("messages", "TYPE_STRING"),
    TensorSpec("task", "TYPE_STRING"),
    TensorSpec("schema_id", "TYPE_STRING"),
    TensorSpec("guided_decoding_guide_type", "TYPE_STRING"),
    TensorSpec("guided_decoding_guide", "TYPE_STRING"),
    TensorSpec("max_tokens", "TYPE_INT32"),
    TensorSpec("temperature", "TYPE_FP32"),
    TensorSpec("top_k", "TYPE_INT32"),
    TensorSpec("top_p", "TYPE_FP32"),
    TensorSpec("repetition_penalty", "TYPE_FP32"),
    TensorSpec("presence_penalty", "TYPE_FP32"),
    TensorSpec("frequency_penalty", "TYPE_FP32"),
    TensorSpec("min_tokens", "TYPE_INT32"),
    TensorSpec("beam_width", "TYPE_INT32"),
    TensorSpec("end_id", "TYPE_INT32"),
    TensorSpec("pad_id", "TYPE_INT32"),
    TensorSpec("seed", "TYPE_UINT64"),
    TensorSpec("stop_words", "TYPE_STRING", (-1,)),
    TensorSpec("bad_words", "TYPE_STRING", (-1,)),
    TensorSpec("stream", "TYPE_BOOL"),
    TensorSpec("return_log_probs", "TYPE_BOOL"),
    TensorSpec("exclude_input_in_output", "TYPE_BOOL"),
    TensorSpec("return_num_input_tokens", "TYPE_BOOL"),
    TensorSpec("return_num_output_tokens", "TYPE_BOOL"),
    TensorSpec("return_perf_metrics", "TYPE_BOOL"),
)

# All but the lengths are optional in the engine: an absent tensor keeps the engine's default.
ENGINE_INPUTS = (
    TensorSpec("input_ids", "TYPE_INT32", (-1,)),
    TensorSpec("input_lengths", "TYPE_INT32"),
    TensorSpec("request_output_len", "TYPE_INT32"),
    TensorSpec("end_id", "TYPE_INT32"),
    TensorSpec("pad_id", "TYPE_INT32"),
    TensorSpec("temperature", "TYPE_FP32"),
    TensorSpec("runtime_top_k", "TYPE_INT32"),
    TensorSpec("runtime_top_p", "TYPE_FP32"),
    TensorSpec("repetition_penalty", "TYPE_FP32"),
    TensorSpec("presence_penalty", "TYPE_FP32"),
    TensorSpec("frequency_penalty", "TYPE_FP32"),
    TensorSpec("min_tokens", "TYPE_INT32"),
    TensorSpec("seed", "TYPE_UINT64"),
    TensorSpec("stop_words_list", "TYPE_INT32", (2, -1)),
    TensorSpec("bad_words_list", "TYPE_INT32", (2, -1)),
    TensorSpec("return_log_probs", "TYPE_BOOL"),
    TensorSpec("exclude_input_in_output", "TYPE_BOOL"),
    TensorSpec("return_num_input_tokens", "TYPE_BOOL"),
    TensorSpec("return_num_output_tokens", "TYPE_BOOL"),
    TensorSpec("return_perf_metrics", "TYPE_BOOL"),
    TensorSpec("guided_decoding_guide_type", "TYPE_STRING"),
    TensorSpec("guided_decoding_guide", "TYPE_STRING"),
)

# From preprocess to postprocess; see `steps/policy_decision.py`.
DECISION = TensorSpec("policy_decision", "TYPE_UINT8", (-1,))

PREPROCESS_OUTPUTS = (*ENGINE_INPUTS, DECISION)

ENGINE_OUTPUTS = (
    TensorSpec("output_ids", "TYPE_INT32", (-1, -1)),
    TensorSpec("sequence_length", "TYPE_INT32", (-1,)),
    TensorSpec("cum_log_probs", "TYPE_FP32", (-1,)),
    TensorSpec("output_log_probs", "TYPE_FP32", (-1, -1)),
    TensorSpec("arrival_time_ns", "TYPE_INT64"),
    TensorSpec("first_scheduled_time_ns", "TYPE_INT64"),
    TensorSpec("first_token_time_ns", "TYPE_INT64"),
    TensorSpec("last_token_time_ns", "TYPE_INT64"),
    TensorSpec("num_input_tokens", "TYPE_INT32"),
    TensorSpec("num_output_tokens", "TYPE_INT32"),
)

# Postprocess needs neither log-probabilities nor the engine's prompt token count.
POSTPROCESS_INPUTS = (
    *(spec for spec in ENGINE_OUTPUTS if spec.name not in ("cum_log_probs", "output_log_probs", "num_input_tokens")),
    DECISION,
)

POSTPROCESS_OUTPUTS = (
    TensorSpec("text_output", "TYPE_STRING", (-1,)),
    TensorSpec("finish_reason", "TYPE_STRING"),
    TensorSpec("cost_usd", "TYPE_FP64"),
    TensorSpec("guided", "TYPE_BOOL"),
    # Not `schema_id`: an ensemble's output must not have the name of one of its inputs. Triton 2.51 loads such an
    # ensemble but then returns the input, or nothing.
    TensorSpec("resolved_schema_id", "TYPE_STRING"),
    TensorSpec("schema_valid", "TYPE_BOOL"),
    TensorSpec("flags", "TYPE_STRING", (-1,)),
    TensorSpec("queue_delay_us", "TYPE_INT64"),
    TensorSpec("time_to_first_token_us", "TYPE_INT64"),
    TensorSpec("total_time_us", "TYPE_INT64"),
    TensorSpec("engine_hash", "TYPE_STRING"),
)

# Postprocess's outputs, plus the engine's own outputs, passed through without a copy.
ENSEMBLE_OUTPUTS = (
    *POSTPROCESS_OUTPUTS,
    *(spec for spec in ENGINE_OUTPUTS if spec.name not in ("output_ids", "sequence_length")),
)

# The inputs of `ensemble_stream` are those of the ensemble.
STREAM_OUTPUTS = (*ENSEMBLE_OUTPUTS, TensorSpec("is_last", "TYPE_BOOL"))
