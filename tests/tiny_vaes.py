"""Tiny VAEs with random weights in the true layout, made without PyTorch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.addon import ROLES
from pocket_diffusion.importing.templates import read_archive
from pocket_diffusion.importing.tiny_vae import ARCHIVE
from pocket_diffusion.layers import LayerTable
from weights_files import write_safetensors, write_torch_file

Arrays = dict[str, NDArray[Any]]
_GAINS = {".conv.4.": 0.2, "decoder.layers.18.": 0.1, "encoder.layers.14.": 0.5}
"""What keeps a random network's pictures and latents within the usual."""


def tiny_arrays(seed: int = 0) -> Arrays:
    """Weights by diffusers' names, so large that pictures have contrast (He et al. 2015)."""
    random, files = np.random.default_rng(seed), read_archive(ARCHIVE)
    arrays: Arrays = {}
    for role in ROLES:
        table = msgspec.json.decode(files[f"{role}.layers.json"], type=LayerTable)
        for name, layer in table.layers.items():
            gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
            deviation = gain * (2 / (9 * layer.shape[1])) ** 0.5 if len(layer.shape) > 1 else 0.02
            arrays[name] = (deviation * random.standard_normal(layer.shape)).astype(np.float32)
    arrays["decoder.layers.18.bias"][:] = 0.5
    return arrays


def own_names(arrays: Mapping[str, NDArray[Any]], half: str, prefix: str = "") -> Arrays:
    """One half as TAESD's own files name it: there, the decoder begins with a layer that has no weights."""
    shift = 1 if half == "decoder" else 0
    found: Arrays = {}
    for name, array in arrays.items():
        if match := re.fullmatch(rf"{half}\.layers\.(\d+)\.(.+)", name):
            found[f"{prefix}{int(match[1]) + shift}.{match[2]}"] = array
    return found


def write_diffusers_folder(folder: Path, arrays: Arrays, **config: object) -> Path:
    """What diffusers' `save_pretrained` writes of an `AutoencoderTiny`."""
    folder.mkdir(parents=True)
    content = {"_class_name": "AutoencoderTiny", "latent_channels": 4, "scaling_factor": 1.0, **config}
    (folder / "config.json").write_bytes(msgspec.json.encode(content))
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", arrays)
    return folder


def write_own_folder(folder: Path, arrays: Arrays) -> Path:
    """TAESD's two files."""
    folder.mkdir(parents=True)
    for half in ("encoder", "decoder"):
        write_torch_file(folder / f"taesd_{half}.pth", own_names(arrays, half))
    return folder
