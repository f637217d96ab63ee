"""A request's parameters in vLLM's terms. Imports no vLLM: the caller makes its types of them.

What vLLM lacks is an error here. Limits of vLLM's workers are checked before, because a worker that exceeds one ends
the engine for everybody.
"""

from __future__ import annotations

import re
from typing import Any

from engine_process.engine import EngineFailure
from engine_process.engines.guide_types import ANY_JSON_SCHEMA, LLGUIDANCE, XGRAMMAR
from engine_process.engines.request_limits import MAX_SEED, check_sampling
from engine_process.messages import Generate, Guide, Sampling

VLLM_BACKENDS = {LLGUIDANCE: "guidance", XGRAMMAR: "xgrammar"}
"""The policy's name of a backend → vLLM's."""

BAD_SEQUENCES_FIELD = "_bad_words_token_ids"
"""vLLM takes bad words as text only; their token ids are this field of SamplingParams, which is not public."""
MAX_BAD_SEQUENCES, MAX_BAD_TOKENS = 128, 1_024

MAX_TEMPERATURE, MAX_PENALTY = 2.0, 2.0

# How vLLM and llguidance tell the languages of a grammar's text apart. One that they took for another would be changed.
_LARK = re.compile(r"(?m)^\s*(%llguidance\b|start\s*:)")
_EBNF = re.compile(r"(?m)^[^#/\n]*?::=")


def sampling_arguments(request: Generate) -> dict[str, Any]:
    """The arguments of `vllm.SamplingParams`, without the guide and `output_kind`.

    vLLM stops at `end_id` itself, which is then the last token of the output. Stop sequences are not vLLM's.

    Raises:
        EngineFailure: vLLM can't do what the request asks for.
    """
    check_sampling(request.sampling, MAX_TEMPERATURE, MAX_PENALTY)
    return {
        "max_tokens": request.max_tokens,
        # A guide alone says when the completion may end.
        "min_tokens": 0 if request.guide is not None else min(request.min_tokens, request.max_tokens),
        "stop_token_ids": [request.end_id] if request.end_id >= 0 else [],
        "ignore_eos": True,  # end_id says it
        "detokenize": False,
        "logprobs": 0 if request.log_probs else None,  # 0: the chosen token's alone
        **_choice(request.sampling),
        "repetition_penalty": request.sampling.repetition_penalty,
        "presence_penalty": request.sampling.presence_penalty,
        "frequency_penalty": request.sampling.frequency_penalty,
        **_bad_sequences(request.bad_sequences),
    }


def guide_arguments(guide: Guide) -> dict[str, Any]:
    """The arguments of `vllm.StructuredOutputsParams` for a guide that the engine's backend takes.

    Raises:
        EngineFailure: vLLM would take its text for another language.
    """
    if guide.kind == "json":
        return {"json": ANY_JSON_SCHEMA}  # json_object would allow objects only
    if guide.kind == "json_schema":
        return {"json": guide.text}
    if guide.kind == "regex":
        return {"regex": guide.text}
    if guide.kind == "lark_grammar" and not _LARK.search(guide.text):
        raise EngineFailure("schema_invalid", "the Lark grammar has no line that begins with `start:`")
    if guide.kind == "ebnf_grammar" and not _EBNF.search(guide.text):
        raise EngineFailure("schema_invalid", "the EBNF grammar has no rule `name ::= …`")
    return {"grammar": guide.text}


def _choice(sampling: Sampling) -> dict[str, Any]:
    """How the token is chosen. As in TensorRT-LLM, 0 is a seed like any other: equal requests get equal answers."""
    if sampling.is_greedy:
        return {"temperature": 0.0}
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,  # 0 is no limit in both
        "top_p": sampling.top_p if sampling.top_p > 0.0 else 1.0,  # 0 is off in TensorRT-LLM
        "seed": sampling.seed % MAX_SEED,
    }


def _bad_sequences(sequences: list[list[int]]) -> dict[str, Any]:
    if not sequences:
        return {}
    num_tokens = sum(map(len, sequences))
    if len(sequences) > MAX_BAD_SEQUENCES or num_tokens > MAX_BAD_TOKENS:
        raise EngineFailure(
            "invalid_input",
            f"{len(sequences)} bad sequences with {num_tokens} tokens, vLLM's limits are {MAX_BAD_SEQUENCES} and "
            f"{MAX_BAD_TOKENS}",
        )
    return {BAD_SEQUENCES_FIELD: sequences}
