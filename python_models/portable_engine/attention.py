"""Grouped-query attention that does not copy keys and values for each query head.

transformers repeats keys and values before attention. Qwen3-32B has eight query heads per key head, so each step would
write eight copies of the whole cache. Here all query heads of a key head form the rows of one matrix product.
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

    `attention_mask` [rows, 1, tokens, attended] is true where a token attends. The signature is that of transformers'
    attention functions.
    """
    rows, heads, tokens, size = query.shape
    key_heads = key.shape[1]
    group = heads // key_heads
    # The tokens of a group's heads follow each other, so the mask repeats per head; one token's mask broadcasts.
    mask = attention_mask if tokens == 1 else attention_mask.repeat(1, 1, group, 1)
    grouped = query.reshape(rows, key_heads, group * tokens, size)
    attended = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, tokens, size).transpose(1, 2), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)  # required but not called: SlotCache passes 4-dimensional masks
