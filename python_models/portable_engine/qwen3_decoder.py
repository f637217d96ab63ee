"""Qwen3's forward pass in few operations.

transformers' implementation favours readability and extension; its overhead is more than half of a small model's step.
Here one product computes queries, keys and values, one computes gate and up, the rotary tables are computed once, and
arguments are not validated. Every other model, and Qwen3 with unusual settings, runs through transformers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import embedding, rms_norm, silu

from portable_engine.attention import grouped_attention


def is_plain_qwen3(config: Any) -> bool:
    """Whether `Qwen3Decoder` computes the same as transformers for this configuration."""
    # transformers before 5 names the rotary settings rope_scaling, None for the default.
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return (
        config.model_type == "qwen3"
        and config.hidden_act == "silu"
        and not config.attention_bias
        and set(config.layer_types) == {"full_attention"}
        and rope.get("rope_type", rope.get("type", "default")) == "default"
    )


class Qwen3Decoder(torch.nn.Module):
    """Computes the same as `model`, a `Qwen3ForCausalLM`, and takes over its weights.

    The layers are removed from `model` one by one, because memory may not hold two copies.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config
        self._embedding = model.model.embed_tokens.weight
        self._norm = model.model.norm.weight
        self._head = model.lm_head
        positions = torch.arange(self.config.max_position_embeddings, device=model.device)
        self._cosines, self._sines = (
            table[0, :, None] for table in model.model.rotary_emb(self._norm, positions[None])
        )
        self._sines[..., : self.config.head_dim // 2].neg_()  # the sign that `_Layer`'s rotation by roll needs
        self._layers = torch.nn.ModuleList()
        while model.model.layers:
            self._layers.append(_Layer(model.model.layers[0], self.config, len(self._layers)))
            del model.model.layers[0]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self._norm.device
        return device

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past_key_values: Any,
        logits_to_keep: torch.Tensor | int,
        **kwargs: object,
    ) -> SimpleNamespace:
        """Ids and positions [rows, tokens] → `logits` [rows, kept tokens, vocabulary]. As in transformers' models."""
        rotary = self._cosines[position_ids], self._sines[position_ids]
        states = embedding(input_ids, self._embedding)
        for layer in self._layers:
            states = layer(states, rotary, attention_mask, past_key_values)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        states = rms_norm(states[:, kept], self._norm.shape, self._norm, self.config.rms_norm_eps)
        return SimpleNamespace(logits=self._head(states))


class _Layer(torch.nn.Module):
    """Attention and MLP: hidden states [rows, tokens, hidden size] → the same shape."""

    def __init__(self, layer: Any, config: Any, number: int) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        self._number = number
        self._epsilon = config.rms_norm_eps
        self._num_heads, self._num_key_heads = heads, key_heads
        self._attention_norm, self._mlp_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        head_norms = [attention.q_norm.weight] * heads + [attention.k_norm.weight] * key_heads
        self._head_norms = torch.nn.Parameter(torch.stack(head_norms), requires_grad=False)  # [heads, head size]
        self._qkv = _concatenate(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = attention.o_proj
        self._gate_and_up = _concatenate(mlp.gate_proj, mlp.up_proj)
        self._down = mlp.down_proj

    def forward(
        self, states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        normed = rms_norm(states, self._attention_norm.shape, self._attention_norm, self._epsilon)
        states = states + self._attend(normed, rotary, mask, cache)
        normed = rms_norm(states, self._mlp_norm.shape, self._mlp_norm, self._epsilon)
        gate, up = self._gate_and_up(normed).chunk(2, dim=-1)
        result: torch.Tensor = states + self._down(silu(gate) * up)
        return result

    def _attend(
        self, states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        heads, key_heads = self._num_heads, self._num_key_heads
        size = self._head_norms.shape[1]
        projected = self._qkv(states).unflatten(-1, (-1, size))  # [rows, tokens, all query, key and value heads, size]
        queries_and_keys, values = projected.tensor_split((heads + key_heads,), dim=2)
        queries_and_keys = rms_norm(queries_and_keys, (size,), None, self._epsilon) * self._head_norms
        cosines, sines = rotary
        rotated = torch.addcmul(queries_and_keys * cosines, queries_and_keys.roll(size // 2, dims=-1), sines)
        queries, keys = rotated.transpose(1, 2).tensor_split((heads,), dim=1)
        keys, values = cache.update(keys, values.transpose(1, 2), self._number)
        attended, _ = grouped_attention(None, queries, keys, values, mask)
        result: torch.Tensor = self._out(attended.flatten(2))
        return result


def _concatenate(*linears: torch.nn.Linear) -> torch.nn.Linear:
    """One layer whose output is the concatenated output of `linears`, which have no bias."""
    weight = torch.cat([linear.weight for linear in linears])
    concatenated = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    concatenated.weight = torch.nn.Parameter(weight, requires_grad=False)
    return concatenated
