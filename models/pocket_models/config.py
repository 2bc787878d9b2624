"""The shapes of the networks. The defaults are Stable Diffusion 1.x."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The CLIP text transformer (Radford et al. 2021, section 2.4)."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def to_diffusers(self) -> dict[str, Any]:
        """Return the `text_encoder/config.json` that transformers' `CLIPTextModel` reads."""
        return {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "bos_token_id": self.vocab_size - 2,
            "eos_token_id": self.vocab_size - 1,
            "pad_token_id": self.vocab_size - 1,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_act": self.hidden_act,
            "layer_norm_eps": self.layer_norm_eps,
        }


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The conditional U-Net (Rombach et al. 2022, section 3.3 and appendix E.2.1), and its siblings'.

    One entry of `block_out_channels`, `attention_levels`, `attention_heads` and `only_cross_attention` per
    resolution, finest first; each level halves the resolution of the one before.
    """

    in_channels: int = 4
    """Of the latents and of what is shown beside them: 9 with a mask and masked latents, 8 with a picture's latents."""
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    attention_heads: tuple[int, ...] = (8, 8, 8, 8)
    cross_attention_dim: int = 768
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    mid_block: bool = True
    """Distilled models may go without the blocks at the coarsest resolution (Kim et al. 2023, BK-SDM, section 3.1)."""
    only_cross_attention: tuple[bool, ...] = ()
    """Where the first attention of a block looks at the context too, not at the picture; empty: nowhere.

    The blocks in the middle always look at the picture.
    """
    time_cond_proj_dim: int | None = None
    """The width of the embedding of the guidance scale, of models that have learnt guidance (Meng et al. 2023)."""

    def only_cross(self, level: int) -> bool:
        """Tell whether both attentions of a level's blocks look at the context."""
        return bool(self.only_cross_attention) and self.only_cross_attention[level]

    def to_diffusers(self) -> dict[str, Any]:
        """Return the `unet/config.json` that diffusers' `UNet2DConditionModel` reads."""
        down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention_levels]
        up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention_levels)]
        return {
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            # diffusers' field is called head_dim but holds the number of heads; the misnomer is published.
            "attention_head_dim": list(self.attention_heads),
            "block_out_channels": list(self.block_out_channels),
            "center_input_sample": False,
            "cross_attention_dim": self.cross_attention_dim,
            "down_block_types": down,
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "in_channels": self.in_channels,
            "layers_per_block": self.layers_per_block,
            "mid_block_scale_factor": 1,
            "mid_block_type": "UNetMidBlock2DCrossAttn" if self.mid_block else None,
            "norm_eps": self.norm_eps,
            "norm_num_groups": self.norm_num_groups,
            "only_cross_attention": list(self.only_cross_attention) or False,
            "out_channels": self.out_channels,
            "time_cond_proj_dim": self.time_cond_proj_dim,
            "up_block_types": up,
            "use_linear_projection": self.use_linear_projection,
        }


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The KL autoencoder (Rombach et al. 2022, section 3.1): pictures to latents and back."""

    in_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def downscale(self) -> int:
        """How many pixels one latent stands for, along one side."""
        return int(2 ** (len(self.block_out_channels) - 1))

    def to_diffusers(self) -> dict[str, Any]:
        """Return the `vae/config.json` that diffusers' `AutoencoderKL` reads."""
        levels = len(self.block_out_channels)
        return {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": list(self.block_out_channels),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "in_channels": self.in_channels,
            "latent_channels": self.latent_channels,
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": self.norm_num_groups,
            "out_channels": self.in_channels,
            "scaling_factor": self.scaling_factor,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
