"""Which model a file holds, by the names of its tensors; those that we cannot draw with are refused by their names."""

from collections.abc import Callable

from pocket_diffusion.checkpoint.key_mapping import OPEN_CLIP, TEXT_ENCODER, VAE, VAE_PARTS, is_compvis
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.errors import UnsupportedModelError

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
    "StableDiffusionInstructPix2PixPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
)
"""diffusers' classes whose folders are read. What the model takes is told by its U-Net, not by the class."""
WANTED = "wanted is a Stable Diffusion 1.x or 2.x model"

# The first that matches names the model.
_REFUSED: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("a LoRA", lambda n: n.startswith(("lora_", "lycoris_")) or ".lora" in n or "_lora." in n),
    (
        "a textual inversion",
        lambda n: n.startswith(("string_to_", "<")) or n in ("emb_params", "clip_l", "clip_g"),
    ),
    ("a ControlNet", lambda n: n.startswith(("control_model.", "controlnet_"))),
    ("a Flux model", lambda n: "double_blocks." in n or n.startswith("single_transformer_blocks.")),
    ("a Stable Diffusion 3 model", lambda n: "joint_blocks." in n or ".add_q_proj." in n),
    ("an upscaler", lambda n: n.startswith("low_scale_model.") or n.endswith(".label_emb.weight")),
    ("an unCLIP model", lambda n: n.startswith(("embedder.", "noise_augmentor."))),
    ("a depth-to-image model", lambda n: n.startswith("depth_model.")),
    ("a Stable Diffusion XL model", lambda n: n.startswith("conditioner.embedders.") or ".label_emb." in n),
)


def check_compvis(name: str, tensors: StoredTensors, *, vae_elsewhere: bool) -> None:
    """Refuse a single-file checkpoint that is neither SD 1.x nor 2.x, by the name of what it is.

    Raises:
        UnsupportedModelError: it is something else, or only a part of it.

    """
    for what, matches in _REFUSED:
        if any(map(matches, tensors)):
            raise UnsupportedModelError(f"{name} is {what}; {WANTED}")
    if not is_compvis(tensors):
        if any(n.startswith((VAE, "encoder.", "decoder.")) for n in tensors):
            what = "a VAE alone"
        elif any(n.startswith(("down_blocks.", "input_blocks.")) for n in tensors):
            what = "a U-Net alone"
        elif any(n.startswith("text_model.") for n in tensors):
            what = "a text encoder alone"
        else:
            what = f"no diffusion model that is known (it has {min(tensors)[:100]!r}, for one)"
        raise UnsupportedModelError(f"{name} is {what}; {WANTED}")
    if not any(n.startswith((TEXT_ENCODER, OPEN_CLIP)) for n in tensors):
        raise UnsupportedModelError(f"{name} has no text encoder in it; {WANTED} with all its parts")
    if not vae_elsewhere and not any(n.startswith(VAE) for n in tensors):
        raise UnsupportedModelError(
            f"{name} has no VAE in it; {WANTED} with all its parts, or name a file that has a VAE with --vae"
        )


def check_vae(name: str, tensors: StoredTensors) -> None:
    """Refuse a file of one part that is no VAE; the tensors are under the names of the file, without a prefix.

    Raises:
        UnsupportedModelError: it is something else.

    """
    if any(n.startswith(("encoder.layers.", "decoder.layers.")) for n in tensors):
        raise UnsupportedModelError(f"{name} is a tiny VAE; wanted is a whole one, as Stable Diffusion has it")
    if not all(any(n.startswith(part) for n in tensors) for part in VAE_PARTS):
        raise UnsupportedModelError(
            f"{name} holds no VAE of Stable Diffusion (it has {min(tensors)[:100]!r}, for one); give a file with "
            "an encoder and a decoder, or a diffusers folder with a config.json"
        )
