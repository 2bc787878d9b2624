"""Attention: the product, the layer around it, and the transformer block of the U-Net."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class AttentionProduct(nn.Module):
    """softmax(q kᵀ / √d) v over `heads` heads (Vaswani et al. 2017, equation 1).

    A module of its own, without parameters, so that the exporter can put a fused operator in its place.
    """

    def __init__(self, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Map `[batch, queries, channels]` and twice `[batch, keys, channels]` to `[batch, queries, channels]`."""
        query, key, value = (torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return out.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention from `channels` to `context_channels` (to itself where they are the same tensor)."""

    def __init__(self, channels: int, context_channels: int, heads: int, *, bias: bool = False) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_channels, channels, bias=bias)
        self.to_v = nn.Linear(context_channels, channels, bias=bias)
        self.product = AttentionProduct(heads)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map `[batch, queries, channels]` and `[batch, keys, context_channels]` to `[batch, queries, channels]`."""
        out: Tensor = self.to_out(self.product(self.to_q(x), self.to_k(context), self.to_v(context)))
        return out


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another (Shazeer 2020, section 2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels_in, 2 * channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., channels_in]` to `[..., channels_out]`."""
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * functional.gelu(gate)


class FeedForward(nn.Module):
    """The transformer block's two-layer network, four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The published names are net.0.proj and net.2; what stood at net.1 was dropout.
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., channels]` to the same shape."""
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context, feed-forward; each with a norm before and a sum after.

    With `only_cross`, both attentions look at the context.
    """

    def __init__(self, channels: int, context_channels: int, heads: int, *, only_cross: bool = False) -> None:
        super().__init__()
        self.only_cross = only_cross
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, context_channels if only_cross else channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context_channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map `[batch, pixels, channels]` and `[batch, tokens, context_channels]` to `[batch, pixels, channels]`."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, context if self.only_cross else normed)
        x = x + self.attn2(self.norm2(x), context)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map (Rombach et al. 2022, appendix E.2.1)."""

    def __init__(
        self, channels: int, context_channels: int, heads: int, groups: int, *, linear: bool, only_cross: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.linear = linear
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        block = TransformerBlock(channels, context_channels, heads, only_cross=only_cross)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map `[batch, channels, height, width]` and `[batch, tokens, context_channels]` to the former shape."""
        height, width = x.shape[-2:]
        tokens = self.norm(x)
        # A 1x1 convolution and a linear layer are the same product; checkpoints of either kind exist.
        if self.linear:
            tokens = self.proj_in(tokens.flatten(2).transpose(1, 2))
        else:
            tokens = self.proj_in(tokens).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        if self.linear:
            return x + torch.unflatten(self.proj_out(tokens).transpose(1, 2), 2, (height, width))
        update: Tensor = self.proj_out(torch.unflatten(tokens.transpose(1, 2), 2, (height, width)))
        return x + update


class PixelAttention(Attention):
    """One head of self-attention over all pixels: the middle of the VAE."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # the published names put the norm beside the layers
        """Map `[batch, channels, height, width]` to the same shape."""
        height, width = x.shape[-2:]
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        return x + torch.unflatten(super().forward(tokens, tokens).transpose(1, 2), 2, (height, width))
