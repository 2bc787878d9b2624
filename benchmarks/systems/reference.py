"""diffusers' networks with the weights of a checkpoint: what a bundle is compared with."""

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import torch
import transformers
from diffusers import DDPMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

from pocket_export.rewrite.initializers import MIN_ELEMENTS
from pocket_models import TextEncoderConfig, UNetConfig, VAEConfig


def load_reference(checkpoint: Path, bundle: Path) -> StableDiffusionPipeline:
    """Read a diffusers folder, or a CompVis file with `bundle`'s tokenizer, with diffusers' own loader in float32."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    disable_progress_bars()
    if checkpoint.is_dir():
        return StableDiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32, safety_checker=None)
    tokenizer = CLIPTokenizer.from_pretrained(bundle / "tokenizer", model_max_length=77, pad_token="<|endoftext|>")  # noqa: S106 - not a password
    with tempfile.TemporaryDirectory() as folder:
        _write_sd1_configs(Path(folder))
        return StableDiffusionPipeline.from_single_file(
            str(checkpoint), config=folder, tokenizer=tokenizer, torch_dtype=torch.float32, local_files_only=True
        )


def disable_progress_bars() -> None:
    """Keep the libraries' own progress from the terminal."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def round_as_stored(theirs: StableDiffusionPipeline) -> None:
    """Round the large weights to float16, as the exporter's `store_float16` does."""
    for network in (theirs.text_encoder, theirs.unet, theirs.vae):
        for parameter in _large_parameters(network):
            parameter.data = parameter.data.half().float()


def _large_parameters(network: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    for name, parameter in network.named_parameters():
        halves = 2 if name.endswith("ff.net.0.proj.bias") else 1  # `split_geglu` cuts it before weights are stored
        if parameter.numel() // halves >= MIN_ELEMENTS:
            yield parameter


def _write_sd1_configs(folder: Path) -> None:
    """Write the configs of Stable Diffusion 1.x where diffusers' single-file loader looks for them."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
    }
    DDPMScheduler(**schedule).save_pretrained(folder / "scheduler")
    configs = {
        "model_index.json": index,
        "unet/config.json": UNetConfig().to_diffusers() | {"sample_size": 64},
        "vae/config.json": VAEConfig().to_diffusers() | {"sample_size": 512},
        "text_encoder/config.json": TextEncoderConfig().to_diffusers(),
    }
    for name, content in configs.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
