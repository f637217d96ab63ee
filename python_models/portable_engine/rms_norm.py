"""One kernel for a norm that transformers writes as seven operations."""

from __future__ import annotations

import torch
from torch.nn.functional import rms_norm


class FusedRmsNorm(torch.nn.Module):
    """Root mean square norm over the last dimension, as Qwen3 and Llama have it."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.weight: torch.nn.Parameter = norm.weight  # type: ignore[assignment]
        self._epsilon = float(norm.variance_epsilon)  # type: ignore[arg-type]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States of any shape whose last dimension is the weight's."""
        return rms_norm(states, self.weight.shape, self.weight, self._epsilon)


def fuse_norms(model: torch.nn.Module) -> None:
    """Replace every such norm in `model`."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm") and hasattr(child, "variance_epsilon"):
                setattr(parent, name, FusedRmsNorm(child))
