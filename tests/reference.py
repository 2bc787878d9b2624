"""A tiny Stable Diffusion with seeded random weights, as diffusers has it: the reference of our tests."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pocket_models import TextEncoderConfig, UNetConfig, VAEConfig

CLIP_FILES = Path(__file__).parent / "data" / "clip"

TEXT_ENCODER = TextEncoderConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2)
UNET = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_levels=(True, False),
    attention_heads=(4, 4),
    cross_attention_dim=64,
    norm_num_groups=16,
)
VAE = VAEConfig(block_out_channels=(16, 32, 32, 32), layers_per_block=1, norm_num_groups=8)
TEXT_ENCODER_2 = replace(TEXT_ENCODER, num_hidden_layers=3, hidden_act="gelu")
UNET_2 = replace(UNET, attention_heads=(1, 2), use_linear_projection=True)
"""Stable Diffusion 2's differences: OpenCLIP, more heads at wider levels, linear projections."""

SCHEDULER = {
    # Stable Diffusion 1.5's scheduler_config.json
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SCHEDULER_2 = SCHEDULER | {"prediction_type": "v_prediction"}  # Stable Diffusion 2.1's


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """Make the pipeline; its default size is 64 x 64."""
    return _pipeline(seed, TEXT_ENCODER, UNET, SCHEDULER, pad_token="<|endoftext|>")


def tiny_pipeline_2(seed: int = 0) -> StableDiffusionPipeline:
    """Make a pipeline of Stable Diffusion 2, which predicts velocity."""
    return _pipeline(seed, TEXT_ENCODER_2, UNET_2, SCHEDULER_2, pad_token="!")


def _pipeline(
    seed: int, text_encoder: TextEncoderConfig, unet: UNetConfig, scheduler: dict[str, object], *, pad_token: str
) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    return StableDiffusionPipeline(
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_encoder.to_diffusers())).eval(),
        unet=UNet2DConditionModel.from_config({**unet.to_diffusers(), "sample_size": 8}).eval(),
        vae=AutoencoderKL.from_config({**VAE.to_diffusers(), "sample_size": 64}).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(CLIP_FILES, model_max_length=77, pad_token=pad_token),
        scheduler=DDPMScheduler.from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
