"""How much a bundle differs from one of the same model with larger weights: PSNR of a step and of a picture.

    python benchmarks/storage.py BUNDLE SMALLER [--size 512x512] [--steps 20] [--output results/storage.json]

The peak of a U-Net's output is its range (largest less smallest number), that of a picture 255.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from machine import describe, machine_facts
from pocket_diffusion import Pipeline, PocketDiffusionError
from report import markdown_table, not_negative, output_path, progress, psnr, publish, size
from stages import MIDDLE_TIMESTEP, PROMPT, SEED


def predict(pipeline: Pipeline, width: int, height: int) -> NDArray[np.float32]:
    """Return the U-Net's prediction for seeded latents under the prompt's own context."""
    spec = pipeline.bundle.manifest.latents
    shape = (1, spec.channels, height // spec.downscale, width // spec.downscale)
    latents = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    return pipeline.predict_noise(latents, MIDDLE_TIMESTEP, pipeline.encode_prompt(PROMPT))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs=2, metavar="BUNDLE", help="the reference, then the smaller one")
    parser.add_argument("--size", type=size, metavar="WIDTHxHEIGHT", help="in pixels (default: the bundle's)")
    parser.add_argument("--steps", type=not_negative, default=20, help="of the picture; 0: none (default: 20)")
    parser.add_argument("--output", type=output_path, metavar="FILE.json", help="write all figures there too")
    arguments = parser.parse_args()
    try:
        reference, smaller = (Pipeline.load(path, memory="balanced") for path in arguments.bundles)
        defaults = reference.bundle.manifest.defaults
        width, height = arguments.size or (defaults.width, defaults.height)
        progress("one step of each")
        expected, found = (predict(pipeline, width, height) for pipeline in (reference, smaller))
        ratios = {"U-Net output": psnr(expected, found, float(np.ptp(expected)))}
        if arguments.steps:
            progress(f"a picture of {arguments.steps} steps of each")
            pictures = [
                np.asarray(
                    pipeline.generate(PROMPT, width=width, height=height, steps=arguments.steps, seed=SEED).images[0]
                )
                for pipeline in (reference, smaller)
            ]
            ratios[f"picture, {arguments.steps} steps"] = psnr(*pictures, peak=255)
    except PocketDiffusionError as error:
        parser.error(str(error))
    stored = [pipeline.bundle.manifest.weights for pipeline in (reference, smaller)]
    figures = {
        "benchmark": "storage",
        "machine": machine_facts(),
        "bundles": [pipeline.name for pipeline in (reference, smaller)],
        "weights": stored,
        "workload": {"width": width, "height": height, "steps": arguments.steps},
        "psnr_db": ratios,
    }
    header = [f"{reference.name}, {width}×{height}", f"{stored[1]} against {stored[0]}"]
    rows = [[what, f"{ratio:.1f} dB"] for what, ratio in ratios.items()]
    publish(figures, [describe(figures["machine"]), markdown_table(header, rows)], arguments.output)


if __name__ == "__main__":
    main()
