"""A request's parameters in the terms of TensorRT-LLM's LLM API. Imports no TensorRT-LLM.

Its PyTorch sampler accepts penalties, bad words and seeds, and ignores them: those requests are an error with it. The
C++ sampler behind the same API applies them.
"""

from __future__ import annotations

from typing import Any

from engine_process.engine import EngineFailure
from engine_process.engines.guide_types import ANY_JSON_SCHEMA
from engine_process.engines.request_limits import LARGEST_FLOAT, MAX_SEED, check_sampling
from engine_process.messages import Generate, Guide, Sampling

CPP_SAMPLER, TORCH_SAMPLER = "TRTLLMSampler", "TorchSampler"
BAD_SEQUENCES_FIELD = "_bad_word_ids"
"""The LLM API takes sequences of bad tokens as text only; their ids are this field, which is not public."""

_NO_END = -1


def sampling_arguments(request: Generate, sampler: str) -> dict[str, Any]:
    """The arguments of `tensorrt_llm.SamplingParams`, without the guide and the bad sequences.

    Raises:
        EngineFailure: the sampler would ignore what the request asks for, or can't do it.
    """
    check_sampling(request.sampling, LARGEST_FLOAT, LARGEST_FLOAT)
    if sampler != CPP_SAMPLER and (ignored := _ignored_by_torch_sampler(request)):
        raise EngineFailure("invalid_input", f"{sampler} ignores {', '.join(ignored)}")
    has_end = request.end_id >= 0
    return {
        "end_id": request.end_id if has_end else _NO_END,
        "pad_id": request.end_id if has_end else 0,
        "max_tokens": request.max_tokens,
        # A guide alone says when the completion may end.
        **({"min_tokens": request.min_tokens} if has_end and request.guide is None else {}),
        **_choice(request.sampling),
        **_penalties(request.sampling),
        **({"logprobs": 1} if request.log_probs else {}),
        "detokenize": False,
        "add_special_tokens": False,
        "return_perf_metrics": True,
    }


def guide_arguments(guide: Guide) -> dict[str, Any]:
    """The arguments of `tensorrt_llm.llmapi.GuidedDecodingParams`. A Lark grammar goes where EBNF goes for XGrammar."""
    if guide.kind == "json":
        return {"json": ANY_JSON_SCHEMA}  # json_object allows objects only with llguidance
    if guide.kind == "json_schema":
        return {"json": guide.text}
    return {"regex" if guide.kind == "regex" else "grammar": guide.text}


def set_bad_sequences(parameters: Any, sequences: list[list[int]]) -> None:
    """Set the sequences on SamplingParams. The empty list of texts makes it hand their ids on."""
    if sequences:
        parameters.bad = []
        setattr(parameters, BAD_SEQUENCES_FIELD, sequences)


def _ignored_by_torch_sampler(request: Generate) -> list[str]:
    sampling = request.sampling
    asked = {
        "repetition_penalty": sampling.repetition_penalty != 1.0,
        "presence_penalty": sampling.presence_penalty != 0.0,
        "frequency_penalty": sampling.frequency_penalty != 0.0,
        "bad_words": bool(request.bad_sequences),
        "seed": sampling.seed != 0 and not sampling.is_greedy,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _choice(sampling: Sampling) -> dict[str, Any]:
    if sampling.is_greedy:
        return {"top_k": 1}
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p if sampling.top_p > 0.0 else 1.0,  # 0 makes the PyTorch sampler greedy
        "seed": sampling.seed % MAX_SEED,
    }


def _penalties(sampling: Sampling) -> dict[str, float]:
    """Those that change anything: with none, the sampler skips their kernel."""
    given = {
        "repetition_penalty": (sampling.repetition_penalty, 1.0),
        "presence_penalty": (sampling.presence_penalty, 0.0),
        "frequency_penalty": (sampling.frequency_penalty, 0.0),
    }
    return {name: value for name, (value, neutral) in given.items() if value != neutral}
