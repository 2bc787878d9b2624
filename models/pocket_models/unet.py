"""The conditional U-Net: noisy latents, a timestep and a context to the predicted noise."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocket_models.attention import SpatialTransformer
from pocket_models.config import UNetConfig
from pocket_models.resnet import Downsample, ResnetBlock, Upsample
from pocket_models.timestep import TimestepEmbedding


class Block(nn.Module):
    """What every block of the U-Net is made of: resnets, each followed by attention at levels that have it."""

    def __init__(
        self, config: UNetConfig, level: int, widths_in: list[int], attentions: int, *, only_cross: bool = False
    ) -> None:
        super().__init__()
        width, groups = config.block_out_channels[level], config.norm_num_groups
        time_channels = 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(ResnetBlock(w, width, groups, config.norm_eps, time_channels) for w in widths_in)
        self.attentions = nn.ModuleList(
            SpatialTransformer(
                width,
                config.cross_attention_dim,
                config.attention_heads[level],
                groups,
                linear=config.use_linear_projection,
                only_cross=only_cross,
            )
            for _ in range(attentions)
        )

    def layer(self, i: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Run the i-th resnet and the attention after it, if there is one."""
        x = self.resnets[i](x, time)
        if i < len(self.attentions):
            x = self.attentions[i](x, context)
        return x


class DownBlock(Block):
    """A level on the way down; all it computes is kept for the way up."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        widths = config.block_out_channels
        widths_in = [widths[max(level - 1, 0)]] + [widths[level]] * (config.layers_per_block - 1)
        attentions = len(widths_in) * config.attention_levels[level]
        super().__init__(config, level, widths_in, attentions, only_cross=config.only_cross(level))
        last = level == len(widths) - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(widths[level])])

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> list[Tensor]:
        """Return the feature maps after each layer; the last one goes on."""
        features = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, context)
            features.append(x)
        for downsample in self.downsamplers:
            features.append(downsample(x))
        return features


class MidBlock(Block):
    """Resnet, attention, resnet at the coarsest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, len(config.block_out_channels) - 1, [config.block_out_channels[-1]] * 2, 1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Map `[batch, channels, h, w]` to the same shape."""
        return self.layer(1, self.layer(0, x, time, context), time, context)


class UpBlock(Block):
    """A level on the way up; each layer is also shown a feature map of the way down."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        widths, layers = config.block_out_channels, config.layers_per_block + 1
        coarser, finer = widths[min(level + 1, len(widths) - 1)], widths[max(level - 1, 0)]
        carried = [coarser] + [widths[level]] * (layers - 1)
        skipped = [widths[level]] * (layers - 1) + [finer]
        widths_in = [a + b for a, b in zip(carried, skipped, strict=True)]
        attentions = layers * config.attention_levels[level]
        super().__init__(config, level, widths_in, attentions, only_cross=config.only_cross(level))
        self.upsamplers = nn.ModuleList([Upsample(widths[level])] if level else [])

    def forward(self, x: Tensor, features: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        """Take `features` from their end, one a layer, and leave those of the finer levels."""
        for i in range(len(self.resnets)):
            x = self.layer(i, torch.cat([x, features.pop()], dim=1), time, context)
        for upsample in self.upsamplers:
            # Where the way down rounded an odd size up, the next feature map says what it was.
            x = upsample(x, like=features[-1])
        return x


class UNet(nn.Module):
    """diffusers' `UNet2DConditionModel` as Stable Diffusion and its siblings use it."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        levels = range(len(widths))
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0], config.time_cond_proj_dim)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in levels)
        self.mid_block = MidBlock(config) if config.mid_block else None
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(levels))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor, timestep: Tensor, context: Tensor, *more: Tensor) -> Tensor:
        """Predict the noise in the latents.

        Latents `[batch, 4, height/8, width/8]`, timestep `[batch]`, context `[batch, tokens, cross_attention_dim]`;
        the prediction has the shape of the latents. A model that has learnt guidance takes its scale `[batch]` next.
        Then comes what is shown beside the latents, with as many channels as `in_channels` leaves: mask and masked
        latents, or the latents of a picture.
        """
        told = 0 if self.config.time_cond_proj_dim is None else 1
        guidance, shown = more[:told], more[told:]
        time = self.time_embedding(timestep, *guidance)
        x = self.conv_in(torch.cat([latents, *shown], dim=1) if shown else latents)
        features = [x]
        for down in self.down_blocks:
            features += down(features[-1], time, context)
        x = features[-1]
        if self.mid_block is not None:
            x = self.mid_block(x, time, context)
        for up in self.up_blocks:
            x = up(x, features, time, context)
        noise: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return noise
