"""Convolutional blocks that the U-Net and the VAE share."""

from torch import Tensor, nn
from torch.nn import functional


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions with a shortcut (He et al. 2016), optionally told the timestep."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, eps: float, time_channels: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, channels_out) if time_channels else None
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map `[batch, channels_in, h, w]` and `[batch, time_channels]` to `[batch, channels_out, h, w]`."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            hidden = hidden + self.time_emb_proj(functional.silu(time))[:, :, None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        out: Tensor = shortcut + hidden
        return out


class Downsample(nn.Module):
    """A 3x3 convolution with stride 2.

    The U-Net pads all sides by one; the VAE pads only right and below (`asymmetric`).
    """

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, channels, h, w]` to `[batch, channels, ⌈h/2⌉, ⌈w/2⌉]` (asymmetric: rounded down)."""
        if self.asymmetric:
            x = functional.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Nearest-neighbour enlargement and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Map `[batch, channels, h, w]` to twice its size, or to the size of `like` where that is one less."""
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if like is not None:
            x = x[:, :, : like.shape[2], : like.shape[3]]
        out: Tensor = self.conv(x)
        return out
