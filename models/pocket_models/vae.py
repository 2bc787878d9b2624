"""The KL autoencoder: pictures to latents and back."""

from torch import Tensor, nn
from torch.nn import functional

from pocket_models.attention import PixelAttention
from pocket_models.config import VAEConfig
from pocket_models.resnet import Downsample, ResnetBlock, Upsample

NORM_EPS = 1e-6


class DownBlock(nn.Module):
    """Resnet blocks, then half the size (not at the last level)."""

    def __init__(self, channels_in: int, channels_out: int, config: VAEConfig, *, last: bool) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(ResnetBlock(w, channels_out, config.norm_num_groups, NORM_EPS) for w in widths)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(channels_out, asymmetric=True)])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, channels_in, h, w]` to `[batch, channels_out, h/2, w/2]` (the last: `h, w`)."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """Resnet blocks, then twice the size (not at the last level)."""

    def __init__(self, channels_in: int, channels_out: int, config: VAEConfig, *, last: bool) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * config.layers_per_block
        self.resnets = nn.ModuleList(ResnetBlock(w, channels_out, config.norm_num_groups, NORM_EPS) for w in widths)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(channels_out)])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, channels_in, h, w]` to `[batch, channels_out, 2h, 2w]` (the last: `h, w`)."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class MidBlock(nn.Module):
    """Resnet, attention over all pixels, resnet."""

    def __init__(self, channels: int, config: VAEConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, channels, config.norm_num_groups, NORM_EPS) for _ in range(2)
        )
        self.attentions = nn.ModuleList([PixelAttention(channels, config.norm_num_groups)])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, channels, h, w]` to the same shape."""
        out: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return out


class Encoder(nn.Module):
    """A picture to the features of its latent distribution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(i - 1, 0)], width, config, last=i == len(widths) - 1) for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, in_channels, h, w]` to `[batch, 2·latent_channels, h/8, w/8]`."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(self.mid_block(x))))
        return out


class Decoder(nn.Module):
    """Latents to a picture."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], width, config, last=i == len(widths) - 1) for i, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, latent_channels, h, w]` to `[batch, in_channels, 8h, 8w]`."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return out


class VAE(nn.Module):
    """diffusers' `AutoencoderKL`. Its latents are unscaled: `config.scaling_factor` is the caller's to apply."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, picture: Tensor) -> Tensor:
        """Map a picture `[batch, 3, h, w]` in -1…1 to mean and log variance `[batch, 2·latent_channels, h/8, w/8]`."""
        moments: Tensor = self.quant_conv(self.encoder(picture))
        return moments

    def decode(self, latents: Tensor) -> Tensor:
        """Map unscaled latents `[batch, latent_channels, h, w]` to a picture `[batch, 3, 8h, 8w]`, about -1…1."""
        picture: Tensor = self.decoder(self.post_quant_conv(latents))
        return picture
