"""A tiny autoencoder in any of its published forms → its tensors by diffusers' names.

Published are: a diffusers folder of an `AutoencoderTiny`, or a pipeline's folder that has one; its weights file alone;
TAESD's own two files, `taesd_encoder` and `taesd_decoder`; and both of these in one file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocket_diffusion.checkpoint.config_files import read_json, read_license
from pocket_diffusion.checkpoint.source import choose_weights
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.checkpoint.tensor_file import WEIGHT_ENDINGS, read_tensor_file
from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError, UnsupportedModelError

KIND = "AutoencoderTiny"
_HALVES = ("encoder", "decoder")
_NAME = re.compile(r"(?:(?:taesd_)?(encoder|decoder)\.)?(layers\.)?([0-9]{1,3})\.(.+)")
"""A tensor of a half: perhaps which, the number of the layer, and what it is there."""
_BEFORE_THE_DECODER = 1
"""TAESD's own decoder has a layer more, in front, without weights: it limits the latents."""
_OTHERS = {
    "taesdxl": "Stable Diffusion XL",
    "taesd3": "Stable Diffusion 3",
    "taef1": "FLUX",
    "taef2": "FLUX",
    "taew": "Wan",
    "taehv": "HunyuanVideo",
}
"""By a part of the name: other tiny autoencoders of that author, and the models whose latents they speak."""
_WANTED = "taesd"
_WORD = re.compile(r"[a-z0-9]+")
_FOLDERS_ABOVE = 4
"""How many may tell: in a hub's cache, `models--madebyollin--taesdxl/snapshots/<hash>/vae/<file>`."""
_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "encoder_block_out_channels": [64] * 4,
    "decoder_block_out_channels": [64] * 4,
    "num_encoder_blocks": [1, 3, 3, 3],
    "num_decoder_blocks": [3, 3, 3, 1],
    "upsampling_scaling_factor": 2,
    "latent_magnitude": 3,
    "scaling_factor": 1.0,
}
"""What diffusers' configs say of TAESD. The names tell nothing of Stable Diffusion XL's, which is of the same shape."""


@dataclass(frozen=True)
class TinyVAESource:
    """A tiny autoencoder as it was found."""

    name: str
    """Of the file or folder, without those above it."""
    files: dict[str, Path]
    """Those with weights, by their names."""
    tensors: StoredTensors
    """By diffusers' names, `encoder.layers.…` and `decoder.layers.…`."""
    license: str | None


def read_tiny_vae(path: Path) -> TinyVAESource:
    """Read what a file or a folder holds, but none of the tensors' numbers.

    Stable Diffusion XL's tiny autoencoder has the shapes of Stable Diffusion's. It is refused where its name tells; of
    one that was renamed, nothing does.

    Raises:
        CheckpointNotFoundError: there is nothing, or one half alone.
        UnsupportedModelError: a tiny autoencoder for other models, or none at all.
        CheckpointError: a file cannot be read, or names one tensor twice; see those below it.

    """
    if not path.exists():
        raise CheckpointNotFoundError(f"there is no {path}; give a file or a folder with a tiny VAE, such as TAESD")
    _refuse_by_place(path)
    files, license_ = _find(path)
    tensors: StoredTensors = {}
    for file in files:
        _refuse_by_name(file.name)
        half = next((half for half in _HALVES if half in file.stem.lower()), None)
        for name, tensor in _published(path, read_tensor_file(file).tensors, half):
            if name in tensors:
                raise CheckpointError(f"{path} holds {name} twice, under two names; give a file with one tiny VAE")
            tensors[name] = tensor
    latents = tensors.get("decoder.layers.0.weight")
    if latents is not None and latents.shape[1:2] not in ((), (4,)):
        raise UnsupportedModelError(
            f"{path} is for latents of {latents.shape[1]} channels, as Stable Diffusion 3 and FLUX have; wanted is one "
            "for Stable Diffusion's 4, such as TAESD"
        )
    return TinyVAESource(path.resolve().name, {file.name: file for file in files}, tensors, license_)


def _find(path: Path) -> tuple[list[Path], str | None]:
    """Return the weights files, and the license if there is a card."""
    if path.is_file():
        return _with_other_half(path), None
    folder = path / "vae" if (path / "model_index.json").exists() else path
    if (folder / "config.json").exists():
        _check_config(folder)
        names = (file.name for file in folder.iterdir())
        return [folder / choose_weights("vae", names, folder)], read_license(path / "README.md")
    halves = [
        next((path / (stem + end) for end in WEIGHT_ENDINGS if (path / (stem + end)).exists()), None)
        for stem in ("taesd_encoder", "taesd_decoder")
    ]
    found = [half for half in halves if half is not None]
    if len(found) == len(halves):
        return found, read_license(path / "README.md")
    others = sorted(file.name for file in path.iterdir() if file.name.lower().startswith("tae"))
    raise CheckpointNotFoundError(
        f"{path} has no tiny VAE for Stable Diffusion: neither an {KIND}'s config.json nor taesd_encoder and "
        f"taesd_decoder{f', but {others[0][:100]!r}' if others else ''}; give a file or a folder that has one"
    )


def _with_other_half(path: Path) -> list[Path]:
    """Return a file, and the one beside it with the other half where the name tells that it is one."""
    for half, other in (_HALVES, _HALVES[::-1]):
        if half in path.name and other not in path.name:
            beside = path.with_name(path.name.replace(half, other))
            if not beside.exists():
                raise CheckpointNotFoundError(
                    f"{path} is the {half} alone; put {beside.name} beside it: a tiny VAE has both halves"
                )
            return [path, beside]
    return [path]


def _check_config(folder: Path) -> None:
    config = read_json(folder / "config.json", f"{folder} has no tiny VAE")
    kind = config.get("_class_name")
    if kind != KIND:
        raise UnsupportedModelError(f"{folder} holds a {str(kind)[:100]!r}; wanted is an {KIND}, such as TAESD")
    _refuse_by_name(str(config.get("_name_or_path", "")))
    for field, wanted in _CONFIG.items():
        if config.get(field, wanted) != wanted:
            raise UnsupportedModelError(
                f"{folder / 'config.json'} says {field} {str(config[field])[:100]}, not {wanted}: it is no tiny VAE "
                "for Stable Diffusion; give one such as TAESD"
            )


def _refuse_by_place(path: Path) -> None:
    """Refuse by the name or, where it tells nothing, as in a hub's cache, by the nearest folder whose name does."""
    for place in (path.absolute(), path.resolve()):
        _refuse_by_name(place.name)
        for one in (place, *place.parents[:_FOLDERS_ABOVE]):
            words = _WORD.findall(one.name.lower())  # not parts of words: folders are named after other things too
            _refuse_by_name(next((word for word in words if word in _OTHERS), ""))
            if _WANTED in words:
                break


def _refuse_by_name(name: str) -> None:
    for part, model in _OTHERS.items():
        if part in name.lower():
            raise UnsupportedModelError(
                f"{name[:100]} is a tiny VAE for {model}, whose latents mean other colours; wanted is one for Stable "
                "Diffusion 1.x and 2.x, such as TAESD"
            )


def _published(path: Path, tensors: StoredTensors, half: str | None) -> Iterator[tuple[str, Any]]:
    """Yield tensors by diffusers' names; names without a half are those of `half`."""
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        which = None if found is None else found[1] or half
        if found is None or which is None:
            raise CheckpointError(
                f"{path} is no tiny VAE: it holds {name[:100]!r}; give a file or a folder with both halves of one"
            )
        is_own = not found[2]  # TAESD's own numbers
        layer = int(found[3]) - (_BEFORE_THE_DECODER if is_own and which == "decoder" else 0)
        yield f"{which}.layers.{layer}.{found[4]}", tensor
