"""What a request may ask of an engine that does not check it, or whose workers die of it."""

from __future__ import annotations

from collections.abc import Iterable

from engine_process.engine import EngineFailure
from engine_process.messages import Capabilities, Generate, Sampling

MAX_SEED = 1 << 63
LARGEST_FLOAT = 3.4e38


def check_request(request: Generate, capabilities: Capabilities) -> list[int]:
    """The prompt's token ids, after a check of all token ids and lengths.

    A token id outside the vocabulary is an invalid index on the GPU, which ends the engine for everybody.

    Raises:
        EngineFailure: `invalid_input`, with limit and given value.
    """
    prompt = request.prompt_token_ids
    if not prompt:
        raise _invalid("the prompt has no tokens")
    if request.max_tokens < 1:
        raise _invalid(f"max_tokens is {request.max_tokens}, at least 1 is needed")
    if request.min_tokens < 0:
        raise _invalid(f"min_tokens is {request.min_tokens}, at least 0 is needed")
    limit = capabilities.max_model_len
    if limit and len(prompt) + request.max_tokens > limit:
        raise _invalid(f"{len(prompt)} prompt tokens and max_tokens {request.max_tokens}, limit {limit} together")
    vocab_size = capabilities.vocab_size
    _check_ids("input_ids", prompt, vocab_size)
    _check_ids("end_id", [request.end_id] if request.end_id >= 0 else [], vocab_size)
    if not all(request.bad_sequences):
        raise _invalid("an empty sequence in bad_sequences")
    for bad in request.bad_sequences:
        _check_ids("bad_sequences", bad, vocab_size)
    return prompt


def check_sampling(sampling: Sampling, max_temperature: float, max_penalty: float) -> None:
    """Check the sampling parameters of a request for an engine with these limits.

    Raises:
        EngineFailure: `invalid_input`, with limit and given value.
    """
    if not sampling.is_greedy:
        check_range("temperature", sampling.temperature, 0.0, max_temperature)
        check_range("top_p", sampling.top_p, 0.0, 1.0)
        check_range("top_k", sampling.top_k, 0, MAX_SEED)
    check_range("repetition_penalty", sampling.repetition_penalty, 1e-6, LARGEST_FLOAT)
    check_range("presence_penalty", sampling.presence_penalty, -max_penalty, max_penalty)
    check_range("frequency_penalty", sampling.frequency_penalty, -max_penalty, max_penalty)


def rejected(request: Generate, engine: str) -> EngineFailure:
    """The failure of a request that `engine` rejects. Its own text may quote the request."""
    if request.guide is not None:
        return EngineFailure("schema_invalid", f"the {request.guide.kind} guide does not compile")
    return EngineFailure("invalid_input", f"{engine} rejects the request")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Check a sampling parameter; NaN is outside of every range.

    Raises:
        EngineFailure: `invalid_input`.
    """
    if not low <= value <= high:
        raise _invalid(f"{name} is {value:g}, this engine takes {low:g} to {high:g}")


def _check_ids(name: str, ids: Iterable[int], vocab_size: int) -> None:
    if any(token_id < 0 or (vocab_size and token_id >= vocab_size) for token_id in ids):
        raise _invalid(f"a token id in {name} is outside the vocabulary of {vocab_size}")


def _invalid(detail: str) -> EngineFailure:
    return EngineFailure("invalid_input", detail)
