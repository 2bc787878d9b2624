"""A source → what the export needs of it: PyTorch's tensors under our names, and our networks' configs.

A source is a CompVis file (.ckpt, .safetensors), a diffusers folder, or the id of one on a hub.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch

from pocket_diffusion.checkpoint.noise_schedule import Prediction
from pocket_diffusion.checkpoint.source import Source, read_source
from pocket_diffusion.checkpoint.tensor_file import WEIGHT_ENDINGS
from pocket_diffusion.drawing.defaults import with_our_names
from pocket_diffusion.errors import CheckpointNotFoundError
from pocket_diffusion.layers import Layer, LayerTable
from pocket_diffusion.model.lora import Lora, LoraSpec, read_lora_for
from pocket_diffusion.model.weights import with_loras
from pocket_export.hub import fetch, is_hub_id
from pocket_export.mapped_tensors import Tensors, map_tensors
from pocket_models import TextEncoderConfig, UNetConfig, VAEConfig


@dataclass(frozen=True)
class Checkpoint:
    """A source with its tensors mapped. Our names are the published ones."""

    source: Source
    text_encoder: Tensors
    unet: Tensors
    vae: Tensors
    text_encoder_config: TextEncoderConfig
    unet_config: UNetConfig
    vae_config: VAEConfig


def read_checkpoint(
    source: str,
    tokenizer: Path | None = None,
    *,
    vae: Path | None = None,
    prediction: Prediction | None = None,
    loras: Iterable[LoraSpec] = (),
) -> Checkpoint:
    """Read a checkpoint; its tensors stay mapped from its files, but for those that LoRAs change.

    See `read_source` for what stands in for what.

    Raises:
        CheckpointError: and those below it, see `pocket_diffusion.errors`.
        InvalidRequestError: a LoRA does not fit.

    """
    path = Path(source)
    hub_id = source if not path.exists() and is_hub_id(source) and path.suffix.lower() not in WEIGHT_ENDINGS else None
    if hub_id is not None:
        path = fetch(hub_id)
    elif not path.exists():
        raise CheckpointNotFoundError(
            f"there is no {source}; give a .ckpt, a .safetensors, a diffusers folder or a hub id"
        )
    read = read_source(path, tokenizer=tokenizer, vae=vae, prediction=prediction, check_defaults=with_our_names)
    checkpoint = Checkpoint(
        source=read if hub_id is None else replace(read, name=hub_id),
        text_encoder=map_tensors(read.text_encoder.tensors),
        unet=map_tensors(read.unet.tensors),
        vae=map_tensors(read.vae.tensors),
        text_encoder_config=TextEncoderConfig(**msgspec.structs.asdict(read.text_encoder.spec)),
        unet_config=UNetConfig(**msgspec.structs.asdict(read.unet.spec)),
        vae_config=VAEConfig(**msgspec.structs.asdict(read.vae.spec)),
    )
    for spec in loras:
        checkpoint = _with_lora(checkpoint, spec)
    return checkpoint


def _with_lora(checkpoint: Checkpoint, spec: LoraSpec) -> Checkpoint:
    networks = {"text_encoder": checkpoint.text_encoder, "unet": checkpoint.unet}
    tables = {
        name: LayerTable(layers={key: Layer(shape=tuple(t.shape), stored=()) for key, t in tensors.items()})
        for name, tensors in networks.items()
    }
    lora = Lora(read_lora_for(spec.path, tables), spec.scale, spec.text_encoder_scale)
    for component, tensors in networks.items():
        networks[component] = tensors | {
            name: torch.from_numpy(with_loras(component, name, tensors[name].float().numpy(), [lora]))
            for name in lora.changes(component)
        }
    source = replace(checkpoint.source, notes=(*checkpoint.source.notes, str(lora)))
    return replace(checkpoint, source=source, text_encoder=networks["text_encoder"], unet=networks["unet"])
