"""Attention over shared key and value heads without writing a copy of them for each query head.

transformers repeats keys and values before it attends: with Qwen3-32B's eight query heads a key head, every step would
copy the whole cache eight times. Here the query heads of a key head are rows of one product instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

GROUPED = "grouped_sdpa"


def grouped_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Query [rows, heads, tokens, size], key and value [rows, key heads, attended, size] → [rows, tokens, heads, size].

    `attention_mask` is [rows, 1, tokens, attended], true where a token may look.
    """
    rows, heads, tokens, size = query.shape
    key_heads = key.shape[1]
    group = heads // key_heads
    # Heads of one group are neighbours, each with all its tokens; a lone token's mask fits them all as it is.
    mask = attention_mask if tokens == 1 else attention_mask.repeat(1, 1, group, 1)
    grouped = query.reshape(rows, key_heads, group * tokens, size)
    attended = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, tokens, size).transpose(1, 2), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)  # never made: the batcher brings masks of four dimensions
