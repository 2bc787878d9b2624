"""Does the embedded model draw what it is asked for? Held-out prompts, judged by the probes.

    python benchmarks/landscapes.py [--model BUNDLE] [--count 200] [--output results.json] [--grid samples.png]

Every prompt names a combination of time, land and thing that training never showed. The runtime itself draws
each picture; the probes (classifiers of painted scenes, in pocket_models.landscapes) read the attributes back. The
negative prompt is measured on prompts that leave the time open, image to image on the first pictures, redrawn at noon.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from machine import machine_facts
from pocket_diffusion import Pipeline
from pocket_models.landscapes.captions import Prompt, held_out_prompts
from pocket_models.landscapes.probes import Probes
from report import output_path, publish

FIRST_SEED = 1000
WORDING_SEED = 1  # 0 worded the prompts by which the default settings were chosen
GRID = (8, 4)


def draw(pipeline: Pipeline, prompts: Sequence[str], **options: object) -> list[Image.Image]:
    """Draw one picture a prompt, each from a seed of its own."""
    started, pictures = time.perf_counter(), []
    for i, prompt in enumerate(prompts):
        pictures.append(pipeline.generate(prompt, seed=FIRST_SEED + i, **options).images[0])  # type: ignore[arg-type] # options by name
        left = (time.perf_counter() - started) / (i + 1) * (len(prompts) - i - 1)
        sys.stderr.write(f"\r{i + 1}/{len(prompts)} pictures, {left:.0f} s left   ")
    sys.stderr.write("\n")
    return pictures


def measure_negative_prompt(pipeline: Pipeline, probes: Probes, count: int) -> dict[str, float]:
    """Ask for landscapes in words that leave the time open, and say "night" or "noon" as what is not wanted."""
    lands = ("mountains", "hills", "dunes", "a beach", "a lake", "a forest")
    prompts = [lands[i % len(lands)] for i in range(count)]
    shares = {}
    for negative in ("", "at night", "at noon"):
        readings = probes.read(draw(pipeline, prompts, negative_prompt=negative))
        for value in ("night", "noon"):
            share = sum(reading["time"] == value for reading in readings) / count
            shares[f"{value} with negative prompt {negative!r}"] = share
    return shares


def measure_image_to_image(
    pipeline: Pipeline, probes: Probes, prompts: Sequence[Prompt], pictures: Sequence[Image.Image]
) -> dict[str, float]:
    """Redraw pictures at noon with the default strength; the time should change, the land should stay."""
    redrawn, kept, changed = [], 0, 0
    for i, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        land = prompt.asked.get("land", "hills")
        redrawn.append(pipeline.generate(f"{land} at noon", seed=i, image=picture).images[0])
    for before, after in zip(probes.read(pictures), probes.read(redrawn), strict=True):
        kept += before["land"] == after["land"]
        changed += after["time"] == "noon"
    return {"time changed to noon": changed / len(pictures), "land kept": kept / len(pictures)}


def save_grid(pictures: Sequence[Image.Image], path: Path) -> None:
    """Put pictures side by side."""
    columns, rows = GRID
    side = pictures[0].width
    grid = Image.new("RGB", (columns * (side + 4) - 4, rows * (side + 4) - 4), "white")
    for i, picture in enumerate(pictures[: columns * rows]):
        grid.paste(picture, (i % columns * (side + 4), i // columns * (side + 4)))
    grid.save(path, optimize=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a bundle of the landscapes model (default: the embedded one)")
    parser.add_argument("--count", type=int, default=200, help="how many held-out prompts")
    parser.add_argument("--steps", type=int, help="default: the bundle's")
    parser.add_argument("--guidance", type=float, help="default: the bundle's")
    parser.add_argument("--only-prompts", action="store_true", help="skip negative prompt and image to image")
    parser.add_argument("--output", type=output_path, help="where to write the results as JSON")
    parser.add_argument("--grid", type=Path, help="where to put a grid of the first samples")
    arguments = parser.parse_args()

    pipeline, probes = Pipeline.load(arguments.model), Probes.load()
    prompts = held_out_prompts(arguments.count, WORDING_SEED)
    pictures = draw(
        pipeline, [prompt.text for prompt in prompts], steps=arguments.steps, guidance_scale=arguments.guidance
    )
    results = {
        "benchmark": "landscapes",
        "machine": machine_facts(),
        "prompts": arguments.count,
        "share_of_attributes_shown": probes.score([prompt.asked for prompt in prompts], pictures),
    }
    if not arguments.only_prompts:
        few = min(arguments.count, 48)
        results["negative_prompt"] = measure_negative_prompt(pipeline, probes, few)
        results["image_to_image"] = measure_image_to_image(pipeline, probes, prompts[:few], pictures[:few])
    if arguments.grid:
        save_grid(pictures, arguments.grid)
        results["grid_prompts"] = [prompt.text for prompt in prompts[: GRID[0] * GRID[1]]]
    publish(results, [json.dumps(results, indent=2)], arguments.output)


if __name__ == "__main__":
    main()
