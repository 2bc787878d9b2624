"""diffusers' and transformers' networks in PyTorch: eager, float32."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel

from systems.peer import Opened

Forward = Callable[..., Tensor]


def _text_encoder(folder: Path) -> Forward:
    transformers.utils.logging.disable_progress_bar()
    network = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    return lambda ids: network(ids).last_hidden_state


def _unet(folder: Path) -> Forward:
    network = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    return lambda latents, timestep, context: network(latents, timestep, context).sample


def _vae_decoder(folder: Path) -> Forward:
    network = AutoencoderKL.from_pretrained(folder / "vae").eval()
    return lambda latents: network.decode(latents).sample


def _tiny_vae_decoder(folder: Path) -> Forward:
    network = AutoencoderTiny.from_pretrained(folder / "tiny_vae").eval()
    return lambda latents: network.decode(latents).sample


_OPENERS: dict[str, Callable[[Path], Forward]] = {
    "text_encoder": _text_encoder,
    "unet": _unet,
    "vae_decoder": _vae_decoder,
    "tiny_vae_decoder": _tiny_vae_decoder,
}

# `from_pretrained` swaps methods of `torch.nn.Module` meanwhile: a network made beside it in another thread is empty.
_loading = Lock()


def open_network(folder: Path, component: str, threads: int | None) -> Opened:
    """See `systems.peer.OpenNetwork`."""
    if threads is not None:
        torch.set_num_threads(threads)
    with _loading:
        forward = _OPENERS[component](folder)

    def run(**inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        with torch.inference_mode():
            output: NDArray[np.float32] = forward(**{name: torch.from_numpy(x) for name, x in inputs.items()}).numpy()
        return output

    return Opened(run)
