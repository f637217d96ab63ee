"""RMS norm as a single kernel; transformers writes it as seven operations."""

from __future__ import annotations

import torch
from torch.nn.functional import rms_norm


class FusedRmsNorm(torch.nn.Module):
    """Root mean square norm over the last dimension, as in Qwen3 and Llama."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.weight: torch.nn.Parameter = norm.weight  # type: ignore[assignment]
        self._epsilon = float(norm.variance_epsilon)  # type: ignore[arg-type]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [..., size of the weight] → the same shape."""
        return rms_norm(states, self.weight.shape, self.weight, self._epsilon)


def fuse_rms_norms(model: torch.nn.Module) -> None:
    """Replace every RMS norm of `model` by a `FusedRmsNorm`."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm") and hasattr(child, "variance_epsilon"):
                setattr(parent, name, FusedRmsNorm(child))
