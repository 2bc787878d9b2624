"""Attention as PyTorch differentiates it fastest on a CPU, for training only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocket_models.attention import AttentionProduct


class PlainProduct(nn.Module):
    """The same as ``AttentionProduct``, as two matrix products with a softmax between them.

    PyTorch's fused attention keeps no weights and computes them again for the gradients; with 64 positions or fewer
    that takes six times as long here (layers of 64x64 and 64x48, bfloat16: 18 ms fused, 3 ms plain).
    """

    def __init__(self, heads: int, *, causal: bool) -> None:
        """Attend with ``heads`` heads; ``causal``: no position sees a later one."""
        super().__init__()
        self.heads = heads
        self.causal = causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Map `[batch, queries, channels]` and twice `[batch, keys, channels]` to `[batch, queries, channels]`."""
        query, key, value = (torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if self.causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        # Autocast would turn the weights to float32 and back; their softmax is summed in float32 either way.
        with torch.autocast(scores.device.type, enabled=False):
            weights = scores.softmax(dim=-1)
        out: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return out


def use_plain_products(network: nn.Module) -> None:
    """Put plain products in place of all fused ones; weights and their names stay as they are."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, AttentionProduct):
                setattr(module, name, PlainProduct(child.heads, causal=child.causal))
