"""Linear layers for a few rows on a CPU, the products that decoding is made of.

For two to eight rows BLAS takes half as long for W·Xᵀ as for X·Wᵀ, the order of torch's own layer, and less for two
rows than for one (MKL 2024.2 on an AMD EPYC; `llmstack bench engine` shows the difference).
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear

MAX_ROWS = 8


class SkinnyLinear(torch.nn.Module):
    """What `layer` computes; it has no bias."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [..., in features] → [..., out features]."""
        rows = states.reshape(-1, states.shape[-1])
        num_rows = len(rows)
        if num_rows > MAX_ROWS:
            return linear(states, self.weight)
        if num_rows == 1:
            rows = rows.repeat(2, 1)
        product = (self.weight @ rows.t()).t()[:num_rows].contiguous()  # as whoever masks logits in place needs them
        return product.reshape(*states.shape[:-1], -1)


def make_linears_skinny(model: torch.nn.Module) -> None:
    """Replace every linear layer without a bias in `model`."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child.bias is None:
                setattr(parent, name, SkinnyLinear(child))
