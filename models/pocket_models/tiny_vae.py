"""The tiny autoencoder: what the KL autoencoder does, by convolutions alone and in a fiftieth of the multiplications.

The architecture is TAESD's (Bohan 2023, https://github.com/madebyollin/taesd), diffusers' `AutoencoderTiny`. It was
distilled from the KL autoencoder, whose latents it speaks: as the U-Net has them, already scaled.
"""

import torch
from torch import Tensor, nn

CHANNELS = 64
LATENT_CHANNELS = 4
DOWNSCALE = 8
_BLOCKS = (1, 3, 3, 3)
"""Of the encoder, by resolution, the finest first; the decoder has as many in the opposite order."""
_LATENT_MAGNITUDE = 3
"""Latents are softly limited to this, which hides what a U-Net gets wrong."""


class Block(nn.Module):
    """Three convolutions around which the input is led."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, 64, h, w]` to the same shape."""
        return torch.relu(self.conv(x) + x)


class TinyEncoder(nn.Module):
    """Pictures to latents."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1)]
        for level, blocks in enumerate(_BLOCKS):
            if level > 0:
                layers.append(_conv(stride=2, bias=False))
            layers += (Block() for _ in range(blocks))
        self.layers = nn.Sequential(*layers, nn.Conv2d(CHANNELS, LATENT_CHANNELS, 3, padding=1))

    def forward(self, picture: Tensor) -> Tensor:
        """Map a picture `[batch, 3, h, w]` in -1…1 to scaled latents `[batch, 4, h/8, w/8]`."""
        latents: Tensor = self.layers((picture + 1) / 2)
        return latents


class TinyDecoder(nn.Module):
    """Latents to pictures."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(LATENT_CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
        for level, blocks in enumerate(reversed(_BLOCKS)):
            if level > 0:
                layers += (nn.Upsample(scale_factor=2), _conv(bias=False))
            layers += (Block() for _ in range(blocks))
        self.layers = nn.Sequential(*layers, nn.Conv2d(CHANNELS, 3, 3, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """Map scaled latents `[batch, 4, h, w]` to a picture `[batch, 3, 8h, 8w]`, about -1…1."""
        picture: Tensor = self.layers(torch.tanh(latents / _LATENT_MAGNITUDE) * _LATENT_MAGNITUDE)
        return picture * 2 - 1


class TinyVAE(nn.Module):
    """diffusers' `AutoencoderTiny`, which has no distribution to sample from: the encoder gives latents themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TinyEncoder()
        self.decoder = TinyDecoder()


def _conv(*, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, stride=stride, padding=1, bias=bias)
