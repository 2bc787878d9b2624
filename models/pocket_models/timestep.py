"""How the U-Net is told which timestep it is at, and the guidance scale where it has learnt guidance."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def sinusoidal_embedding(timestep: Tensor, channels: int) -> Tensor:
    """Map timesteps `[batch]` to `[batch, channels]` float32, cosines first (Ho et al. 2020, appendix B)."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(10000.0) * exponent)[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class GuidanceEmbedding(nn.Module):
    """The sinusoidal embedding of the guidance scale (Meng et al. 2023, section 3.1), sines first.

    It is that of latent consistency models (Luo et al. 2023), as diffusers' pipeline computes it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        # A step of float32 in a frequency turns the angles by up to a thousandth. So these are the numbers that models
        # were trained with, and a constant of the exported graph. They have no place among the weights.
        exponent = torch.arange(half, dtype=torch.float32, device="cpu")
        self.frequencies = torch.exp(exponent * -(torch.log(torch.tensor(10000.0, device="cpu")) / (half - 1)))

    def forward(self, scale: Tensor) -> Tensor:
        """Map guidance scales `[batch]` to `[batch, channels]` float32; 1 is no guidance."""
        angles = (scale.float() - 1)[:, None] * 1000 * self.frequencies.to(scale.device)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers after the sinusoidal embedding, to which that of the guidance scale is added."""

    def __init__(self, channels: int, time_channels: int, guidance_channels: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.guidance = None if guidance_channels is None else GuidanceEmbedding(guidance_channels)
        self.cond_proj = None if guidance_channels is None else nn.Linear(guidance_channels, channels, bias=False)
        self.linear_1 = nn.Linear(channels, time_channels)
        self.linear_2 = nn.Linear(time_channels, time_channels)

    def forward(self, timestep: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Map `[batch]`, twice, to `[batch, time_channels]`, in the precision of the weights."""
        # The angles need float32 (timesteps reach 999); only the embedding may be rounded.
        embedding = sinusoidal_embedding(timestep, self.channels).to(self.linear_1.weight.dtype)
        if self.guidance is not None and self.cond_proj is not None:
            embedding = embedding + self.cond_proj(self.guidance(guidance).to(embedding.dtype))
        out: Tensor = self.linear_2(functional.silu(self.linear_1(embedding)))
        return out
