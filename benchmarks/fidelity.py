"""How close a bundle is to diffusers and transformers on the same checkpoint.

    python benchmarks/fidelity.py BUNDLE CHECKPOINT [--size 256x192] [--picture STEPS] [--output results.json]

CHECKPOINT is the CompVis file or the diffusers folder that BUNDLE was exported from; diffusers' own loader reads it.
Each network is run on the same seeded inputs, once with the checkpoint's weights and once with those weights rounded
as the bundle stores them (fp16 bundles), which leaves only the graphs' own error. `--picture` draws a whole picture
with both and compares latents and pixels.
"""

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from machine import PACKAGES, machine_facts
from pocket_diffusion import Pipeline, PocketDiffusionError
from report import add_arithmetic, not_negative, output_path, psnr, publish, relative_error, size
from stages import PROMPT
from systems.reference import load_reference, round_as_stored


def compare_networks(ours: Pipeline, theirs: StableDiffusionPipeline, width: int, height: int) -> dict[str, float]:
    """Return the relative error ‖ours − theirs‖ / ‖theirs‖ of each network."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((2, 4, height // 8, width // 8), generator=generator)
    picture = torch.rand((1, 3, height, width), generator=generator) * 2 - 1
    scale = theirs.vae.config.scaling_factor
    ids = theirs.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    errors = {}
    with torch.inference_mode():
        context = theirs.text_encoder(ids).last_hidden_state
        errors["text_encoder"] = relative_error(context.numpy(), ours.encode_prompt(PROMPT))
        both = context.repeat(2, 1, 1)
        noise = theirs.unet(latents, 501, both).sample
        errors["unet"] = relative_error(noise.numpy(), ours.predict_noise(latents.numpy(), 501.0, both.numpy()))
        encoded = theirs.vae.encode(picture).latent_dist.mean * scale
        errors["vae_encoder"] = relative_error(encoded.numpy(), ours.encode_image(picture.numpy()))
        decoded = theirs.vae.decode(latents[:1] / scale).sample
        errors["vae_decoder"] = relative_error(decoded.numpy(), ours.decode_latents(latents[:1].numpy()))
    return errors


def compare_pictures(
    ours: Pipeline, theirs: StableDiffusionPipeline, width: int, height: int, steps: int
) -> dict[str, float]:
    """Draw with both and return the relative error of the latents and the PSNR of the pixels."""
    theirs.set_progress_bar_config(disable=True)
    options = {"width": width, "height": height, "guidance_scale": 7.5}
    latents = theirs(
        PROMPT, num_inference_steps=steps, generator=torch.Generator().manual_seed(1), output_type="latent", **options
    ).images
    with torch.inference_mode():
        pixels = theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample
    result = ours.generate(PROMPT, sampler="ddpm", steps=steps, seed=1, **options)
    levels = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()[0] * 255
    drawn = np.asarray(result.images[0])
    return {
        "latents": relative_error(latents.numpy(), result.latents),
        "largest_pixel_difference": float(np.abs(drawn - levels).max()),
        "psnr_db": psnr(levels, drawn, peak=255),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--size",
        type=size,
        default="256x192",
        metavar="WIDTHxHEIGHT",
        help="in pixels; not a size that was traced (default: %(default)s)",
    )
    parser.add_argument(
        "--picture", type=not_negative, default=0, metavar="STEPS", help="also draw a picture with that many"
    )
    add_arithmetic(parser)
    parser.add_argument("--output", type=output_path, help="where to write the results as JSON")
    arguments = parser.parse_args()
    width, height = arguments.size
    try:
        ours = Pipeline.load(arguments.bundle, arithmetic=arguments.arithmetic)
    except PocketDiffusionError as error:
        parser.error(str(error))
    if not arguments.checkpoint.exists():
        parser.error(f"there is no {arguments.checkpoint}; give what the bundle was exported from")
    theirs = load_reference(arguments.checkpoint, arguments.bundle)
    results: dict[str, Any] = {
        "benchmark": "fidelity",
        "machine": machine_facts([*PACKAGES, "diffusers", "torch", "transformers"]),
        "bundle": {"name": ours.name, "weights": ours.bundle.manifest.weights},
        "workload": {
            "width": width,
            "height": height,
            "steps": arguments.picture,
            "arithmetic": ours.arithmetic,
        },
    }
    results["against_source"] = compare_networks(ours, theirs, width, height)
    if arguments.picture:
        results["picture"] = compare_pictures(ours, theirs, width, height, arguments.picture)
    if ours.bundle.manifest.weights == "fp16":
        round_as_stored(theirs)
        gc.collect()
        results["against_stored"] = compare_networks(ours, theirs, width, height)
        if arguments.picture:
            results["picture_from_stored"] = compare_pictures(ours, theirs, width, height, arguments.picture)
    publish(results, [json.dumps(results, indent=2)], arguments.output)


if __name__ == "__main__":
    main()
