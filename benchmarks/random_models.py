"""Models with random weights in the published shapes, and their bundles: what seconds.py draws with.

A checkpoint of Stable Diffusion 1.5 is a CompVis file (synthetic_checkpoint.py); the others are diffusers folders, made
by diffusers itself from the published configs. Times are those of trained weights.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fresh_process import StageError
from pocket_diffusion.addon import TINY_VAE
from report import progress

TAESD = "taesd"
"""The folder of the tiny VAE, a diffusers folder."""
_SD2_TEXT_ENCODER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
_SD2_UNET = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
_SMALL_UNET = {"layers_per_block": 1, "mid_block_type": None}
_TOKENIZER = Path(__file__).parents[1] / "tests" / "data" / "clip"
_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model in its published shape."""

    title: str
    checkpoint: str
    """The file or folder with its weights."""
    write: Callable[[Path], None]
    """Writes that."""


def prepare_models(folder: Path, names: Iterable[str], *, int8: bool, tiny_vae: bool) -> None:
    """Write what is missing in `folder` of these models: checkpoint, bundle, its 8-bit twin, and tiny VAEs in both.

    Raises:
        StageError: one could not be written.

    """
    if tiny_vae and not (folder / TAESD).exists():
        from diffusers import AutoencoderTiny

        AutoencoderTiny().save_pretrained(folder / TAESD)
    for name in names:
        checkpoint = folder / MODELS[name].checkpoint
        if not checkpoint.exists():
            progress(f"writing {checkpoint.name}, once: random weights in the shape of {MODELS[name].title}")
            MODELS[name].write(checkpoint)
        for bundle, weights in ((folder / name, "fp16"), (int8_bundle(folder / name), "int8"))[: 2 if int8 else 1]:
            if not bundle.exists():
                _ours("import", checkpoint, bundle, "--weights", weights)
            if tiny_vae and not (bundle / TINY_VAE).exists():
                _ours("add", bundle, "--tiny-vae", folder / TAESD)


def int8_bundle(bundle: Path) -> Path:
    """Return where the same model's bundle with int8 weights is."""
    return bundle.with_name(f"{bundle.name}-int8")


def _ours(command: str, *options: object) -> None:
    progress(f"pocket-diffusion {command} {' '.join(map(str, options))}")
    done = subprocess.run(
        [sys.executable, "-m", "pocket_diffusion", command, *map(str, options)], stdout=sys.stderr, check=False
    )
    if done.returncode != 0:
        raise StageError(f"pocket-diffusion {command} failed")


def _write_compvis(path: Path) -> None:
    from synthetic_checkpoint import Sizes, save_checkpoint, synthetic_state_dict

    save_checkpoint(synthetic_state_dict(Sizes(), seed=0), path)


def _write_diffusers(
    folder: Path, *, unet: dict[str, Any], text_encoder: dict[str, Any], scheduler: str, **spacing: str
) -> None:
    """Write a diffusers folder; what the configs leave out is Stable Diffusion 1.5's."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from pocket_models import TextEncoderConfig, UNetConfig, VAEConfig
    from systems.reference import disable_progress_bars

    disable_progress_bars()
    torch.manual_seed(0)
    theirs = diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel.from_config(UNetConfig().to_diffusers() | {"sample_size": 64} | unet),
        vae=diffusers.AutoencoderKL.from_config(VAEConfig().to_diffusers() | {"sample_size": 512}),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TextEncoderConfig().to_diffusers() | text_encoder)),
        tokenizer=CLIPTokenizer.from_pretrained(_TOKENIZER, model_max_length=77),
        scheduler=getattr(diffusers, scheduler)(**_SCHEDULE, **spacing),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    unfinished = folder.with_name(f"{folder.name}.part")
    theirs.to(torch.float16).save_pretrained(unfinished)
    unfinished.rename(folder)


MODELS = {
    "sd15": Model(title="Stable Diffusion 1.5", checkpoint="sd15.safetensors", write=_write_compvis),
    "small-sd": Model(
        title="small-sd (BK-SDM-Small)",
        checkpoint="small-sd-checkpoint",
        write=partial(_write_diffusers, unet=_SMALL_UNET, text_encoder={}, scheduler="DPMSolverMultistepScheduler"),
    ),
    "sd-turbo": Model(
        title="SD-Turbo",
        checkpoint="sd-turbo-checkpoint",
        write=partial(
            _write_diffusers,
            unet=_SD2_UNET,
            text_encoder=_SD2_TEXT_ENCODER,
            scheduler="EulerDiscreteScheduler",
            timestep_spacing="trailing",
        ),
    ),
}
"""By the names of their bundles."""
