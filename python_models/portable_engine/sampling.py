"""From logits to one token per sequence: penalties and bans first, then greedy or seeded sampling."""

from __future__ import annotations

import math

import torch
from transformers.generation.logits_process import (
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from portable_engine.sequence import Sequence


def sample_tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[tuple[int, float] | None]:
    """(token id, log-probability) for each sequence; None where no token is allowed.

    `logits` [sequences, vocabulary] is overwritten. The log-probability is taken before temperature, top_k and top_p. A
    row without an allowed token is not sampled: that would fail the whole step, and on a GPU all later ones too.
    """
    for row, sequence in enumerate(sequences):
        if _needs_processing(sequence):
            logits[row] = _process(logits[row : row + 1], sequence)[0]
    best = logits.max(dim=-1)
    most_likely = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        _choose(logits[row], token_id, sequences[row]) if math.isfinite(logit) else None
        for row, (token_id, logit) in enumerate(most_likely)
    ]


def _choose(logits: torch.Tensor, most_likely: int, sequence: Sequence) -> tuple[int, float]:
    is_greedy = sequence.request.sampling.is_greedy
    token_id = most_likely if is_greedy else _sample(logits[None], sequence)
    return token_id, _log_prob(logits, token_id, sequence)


def _needs_processing(sequence: Sequence) -> bool:
    sampling = sequence.request.sampling
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or bool(sequence.request.bad_words)
        or len(sequence.completion_token_ids) < sampling.min_tokens
    )


def _process(scores: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """Apply penalties, bad words and min_tokens to `scores` [1, vocabulary]."""
    request, sampling = sequence.request, sequence.request.sampling
    tokens = torch.tensor([[*request.prompt_token_ids, *sequence.completion_token_ids]], device=scores.device)
    if sampling.repetition_penalty != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(tokens, scores)
    if sampling.presence_penalty or sampling.frequency_penalty:
        scores = _penalise_counts(scores, sequence)
    if request.bad_words:
        bad_words = [list(word) for word in request.bad_words]
        scores = NoBadWordsLogitsProcessor(bad_words, eos_token_id=None)(tokens, scores)
    if len(sequence.completion_token_ids) < sampling.min_tokens and request.end_id >= 0 and sequence.matcher is None:
        scores = scores.clone()
        scores[:, request.end_id] = -torch.inf
    return scores


def _penalise_counts(scores: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """Presence and frequency penalties over the generated tokens (OpenAI's definition, as in TensorRT-LLM)."""
    sampling = sequence.request.sampling
    generated = torch.tensor(sequence.completion_token_ids, dtype=torch.long, device=scores.device)
    counts = torch.bincount(generated, minlength=scores.shape[-1]).to(scores.dtype)
    return scores - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0).to(scores.dtype)


def _sample(scores: torch.Tensor, sequence: Sequence) -> int:
    sampling = sequence.request.sampling
    warped = TemperatureLogitsWarper(sampling.temperature)(None, scores.float())
    if sampling.top_k > 0:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    if 0.0 < sampling.top_p < 1.0:
        warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    if sequence.generator is None:
        sequence.generator = torch.Generator(device=scores.device).manual_seed(sampling.seed % (1 << 63))
    return int(torch.multinomial(torch.softmax(warped, dim=-1), 1, generator=sequence.generator))


def _log_prob(logits: torch.Tensor, token_id: int, sequence: Sequence) -> float:
    if not sequence.request.return_log_probs:
        return 0.0
    return float(torch.log_softmax(logits.float(), dim=-1)[token_id])
