"""How the U-Net is told which timestep it is at."""

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


class TimestepEmbedding(nn.Module):
    """Two linear layers after the sinusoidal embedding."""

    def __init__(self, channels: int, time_channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, time_channels)
        self.linear_2 = nn.Linear(time_channels, time_channels)

    def forward(self, timestep: Tensor) -> Tensor:
        """Map `[batch]` to `[batch, time_channels]`, in the precision of the weights."""
        # The angles need float32 (timesteps reach 999); only the embedding may be rounded.
        embedding = sinusoidal_embedding(timestep, self.channels).to(self.linear_1.weight.dtype)
        out: Tensor = self.linear_2(functional.silu(self.linear_1(embedding)))
        return out
