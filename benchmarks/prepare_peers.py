"""Write what the peers read: the same weights as a bundle's, each system's files as its users have them.

    python benchmarks/prepare_peers.py BUNDLE CHECKPOINT FOLDER diffusers|onnx|openvino|openvino-nncf ...
                                       [--tiny-vae FOLDER]

peers.py runs this where files are missing. CHECKPOINT is what BUNDLE was exported from; diffusers' own loader reads it,
and weights that the bundle stores as float16 are rounded to it. Each kind of files appears whole or not at all.
"""

import argparse
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor, nn

from pocket_diffusion.bundle import Bundle
from report import progress
from systems.reference import load_reference, round_as_stored

if TYPE_CHECKING:
    import openvino

_CALIBRATION_PROMPTS = (
    "a lake under snowy mountains at sunset",
    "a portrait of an old fisherman, photograph",
    "a red bicycle against a brick wall",
    "two cats asleep on a sofa, oil painting",
)
_CALIBRATION_STEPS = 10


class _TextEncoder(nn.Module):
    def __init__(self, theirs: StableDiffusionPipeline) -> None:
        super().__init__()
        self.network = theirs.text_encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.network(ids).last_hidden_state


class _UNet(nn.Module):
    def __init__(self, theirs: StableDiffusionPipeline) -> None:
        super().__init__()
        self.network = theirs.unet

    def forward(self, latents: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.network(latents, timestep, context).sample


class _VAEDecoder(nn.Module):
    def __init__(self, vae: AutoencoderKL | AutoencoderTiny) -> None:
        super().__init__()
        self.network = vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents).sample


_NETWORKS: dict[str, Callable[[StableDiffusionPipeline], nn.Module]] = {
    "text_encoder": _TextEncoder,
    "unet": _UNet,
    "vae_decoder": lambda theirs: _VAEDecoder(theirs.vae),
}


def _examples(theirs: StableDiffusionPipeline) -> dict[str, dict[str, Tensor]]:
    """Return inputs to trace each network with, by the names that a bundle's graphs have."""
    latents = torch.randn(2, theirs.unet.config.in_channels, 16, 24, dtype=theirs.dtype)
    context = torch.randn(2, 77, theirs.unet.config.cross_attention_dim, dtype=theirs.dtype)
    return {
        "text_encoder": {"ids": torch.zeros(2, 77, dtype=torch.int64)},
        "unet": {"latents": latents, "timestep": torch.ones(2), "context": context},
        "vae_decoder": {"latents": latents},
    }


def write_diffusers(theirs: StableDiffusionPipeline, folder: Path) -> None:
    """Write a diffusers folder, float32."""
    theirs.save_pretrained(folder)


def write_onnx(theirs: StableDiffusionPipeline, folder: Path) -> None:
    """Write what `torch.onnx.export` makes of each network, in its precision: attention as MatMul, Softmax, MatMul."""
    dynamic = torch.export.Dim.DYNAMIC
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    for name, example in _examples(theirs).items():
        progress(f"ONNX graph of {name}")
        axes = [{0: dynamic, 2: dynamic, 3: dynamic} if x.ndim == 4 else {0: dynamic} for x in example.values()]
        with torch.no_grad():
            program = torch.onnx.export(
                _NETWORKS[name](theirs).eval(),
                tuple(example.values()),
                input_names=list(example),
                output_names=["output"],
                dynamic_shapes=tuple(axes),
                dynamo=True,
                verbose=False,
            )
        program.save(folder / f"{name}.onnx", external_data=True)


def write_openvino(theirs: StableDiffusionPipeline, folder: Path) -> None:
    """Write what OpenVINO's converter makes of each network, float32."""
    for name in _NETWORKS:
        _save_openvino(_openvino_model(theirs, name), folder, name)


def write_openvino_nncf(theirs: StableDiffusionPipeline, folder: Path) -> None:
    """Write the same with the U-Net quantised by NNCF: weights and activations of all products in 8 bits.

    OpenVINO's notebooks and optimum-intel leave the VAE as it is, for it would lose much and gain little; for quality,
    they also leave the activations of the linear layers, which makes a slower U-Net than this.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    inputs = calibration_inputs(theirs)
    for name in _NETWORKS:
        model = _openvino_model(theirs, name)
        if name == "unet":
            progress(f"NNCF's calibration with {len(inputs)} inputs")
            model = nncf.quantize(
                model,
                nncf.Dataset(inputs),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(inputs),
            )
        _save_openvino(model, folder, name)


def calibration_inputs(theirs: StableDiffusionPipeline) -> list[dict[str, Tensor]]:
    """Return what the U-Net is given while diffusers draws a few guided pictures, small ones, in its own way."""
    inputs: list[dict[str, Tensor]] = []

    def note(_unet: nn.Module, given: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
        latents, timestep = given
        context = options["encoder_hidden_states"]
        inputs.append({"latents": latents, "timestep": timestep.float().expand(len(latents)), "context": context})

    side = theirs.unet.config.sample_size * theirs.vae_scale_factor // 2
    theirs.set_progress_bar_config(disable=True)
    noting = theirs.unet.register_forward_pre_hook(note, with_kwargs=True)
    for seed, prompt in enumerate(_CALIBRATION_PROMPTS):
        progress(f"drawing for the calibration: {prompt}")
        theirs(
            prompt,
            width=side,
            height=side,
            num_inference_steps=_CALIBRATION_STEPS,
            generator=torch.manual_seed(seed),
            output_type="latent",
        )
    noting.remove()
    return inputs


def write_tiny_diffusers(tiny: AutoencoderTiny, folder: Path) -> None:
    """Write a diffusers folder of a tiny VAE."""
    tiny.save_pretrained(folder / "tiny_vae")


def write_tiny_openvino(tiny: AutoencoderTiny, folder: Path) -> None:
    """Write what OpenVINO's converter makes of a tiny VAE's decoder."""
    import openvino

    latents = torch.randn(1, tiny.config.latent_channels, 16, 24)
    model = openvino.convert_model(_VAEDecoder(tiny).eval(), example_input={"latents": latents})
    _save_openvino(model, folder, "tiny_vae_decoder")


def _openvino_model(theirs: StableDiffusionPipeline, name: str) -> "openvino.Model":
    import openvino

    progress(f"OpenVINO's model of {name}")
    return openvino.convert_model(_NETWORKS[name](theirs).eval(), example_input=_examples(theirs)[name])


def _save_openvino(model: "openvino.Model", folder: Path, name: str) -> None:
    import openvino

    openvino.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)


WRITERS: dict[str, Callable[[StableDiffusionPipeline, Path], None]] = {
    "diffusers": write_diffusers,
    "onnx": write_onnx,
    "openvino": write_openvino,
    "openvino-nncf": write_openvino_nncf,
}
TINY_WRITERS: dict[str, Callable[[AutoencoderTiny, Path], None]] = {
    "diffusers": write_tiny_diffusers,
    "openvino": write_tiny_openvino,
    "openvino-nncf": write_tiny_openvino,
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="each kind gets a folder in it")
    parser.add_argument("kinds", nargs="+", choices=WRITERS)
    parser.add_argument(
        "--tiny-vae", metavar="FOLDER", type=Path, help="diffusers' folder of one, for all kinds but onnx"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # the tracers' talk of what they take for constant
    os.environ["CI"] = "true"  # so that OpenVINO and NNCF tell their makers nothing

    progress(f"reading {arguments.checkpoint.name} with diffusers")
    theirs = load_reference(arguments.checkpoint, arguments.bundle)
    if Bundle.open(arguments.bundle).manifest.weights == "fp16":
        round_as_stored(theirs)
    for kind in arguments.kinds:
        progress(f"writing {kind} files")
        unfinished, finished = arguments.folder / f"{kind}.part", arguments.folder / kind
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        WRITERS[kind](theirs, unfinished)
        if arguments.tiny_vae is not None and kind in TINY_WRITERS:
            TINY_WRITERS[kind](AutoencoderTiny.from_pretrained(arguments.tiny_vae), unfinished)
        unfinished.rename(finished)


if __name__ == "__main__":
    main()
