"""Writes the trained model as a diffusers folder that StableDiffusionPipeline loads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from pocket_models.landscapes.captions import vocabulary
from pocket_models.landscapes.diffusing import Painter
from pocket_models.landscapes.painting import SIZE
from pocket_models.landscapes.schedule import SCHEDULER_CONFIG
from pocket_models.vae import VAE

_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

_DEFAULTS = {"steps": 15, "guidance_scale": 7.0, "sampler": "dpmpp_2m", "scheduler": "trailing"}
"""What a picture is drawn with when nobody says otherwise; see CARD.md for how they were chosen."""
_CARD = """---
license: mit
---

Flat-art landscapes of 128x128 pixels, trained by pocket_models.landscapes of Pocket Diffusion.
"""


def save_diffusers(folder: Path, painter: Painter, vae: VAE, scaling_factor: float, tokenizer: Path) -> None:
    """Write all components with float16 weights; ``folder`` appears whole, an earlier one is removed just before."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(tokenizer, unfinished / "tokenizer")
    vae_config = dataclasses.replace(vae.config, scaling_factor=scaling_factor).to_diffusers()
    latent_size = SIZE // vae.config.downscale
    unet_config = painter.unet.config.to_diffusers() | {"sample_size": latent_size}
    text_config = painter.text_encoder.config.to_diffusers()
    _save_component(unfinished / "unet", "diffusion_pytorch_model", painter.unet, unet_config)
    _save_component(unfinished / "vae", "diffusion_pytorch_model", vae, vae_config | {"sample_size": SIZE})
    _save_component(unfinished / "text_encoder", "model", painter.text_encoder, text_config)
    _write_json(unfinished / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    _write_json(unfinished / "model_index.json", _INDEX)
    _write_json(unfinished / "generation_config.json", _DEFAULTS)
    _write_json(unfinished / "vocabulary.json", vocabulary())
    (unfinished / "README.md").write_text(_CARD, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _save_component(folder: Path, name: str, module: nn.Module, config: dict[str, Any]) -> None:
    _write_json(folder / "config.json", config)
    tensors = {key: tensor.half().contiguous().cpu() for key, tensor in module.state_dict().items()}
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
