"""Does the embedded model draw what it is asked for? Held-out prompts, judged by the probes.

    python benchmarks/landscapes.py [--model BUNDLE] [--count 500] [--output results.json] [--grid samples.png]

Every prompt names a combination of time, land and thing (without a thing: sky) that training never showed. The runtime
itself draws each picture; the probes (classifiers of painted scenes, in pocket_models.landscapes) read the attributes
back. Guidance, the negative prompt, image to image, inpainting and seeds are then measured on fewer pictures, and the
VAE on painted scenes that training never showed.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from machine import machine_facts
from pocket_diffusion import Pipeline, PocketDiffusionError
from pocket_diffusion.drawing.images import to_array, to_pictures
from pocket_models.landscapes.captions import Prompt, held_out_prompts
from pocket_models.landscapes.painting import SIZE, paint
from pocket_models.landscapes.probes import Probes, Reading
from pocket_models.landscapes.scenes import ATTRIBUTES, Scene, draw_held_out_scene
from report import add_arithmetic, output_path, positive, psnr, publish

FIRST_SEED = 1000
WORDING_SEED = 1
FEW = 36
LANDS = ("mountains", "hills", "dunes", "a beach", "a lake", "a forest")
GRID = (8, 4)
# Where a house is painted in: the left of the ground, on the grid of latents, and none of the sky.
MASK_BOX = (0, 64, 64, 128)

Draw = Callable[..., Image.Image]


def drawer(pipeline: Pipeline) -> Draw:
    """Return a function that draws one picture."""
    return lambda prompt, **options: pipeline.generate(prompt, **options).images[0]


def draw_all(draw: Draw, prompts: Sequence[str], what: str, **options: object) -> list[Image.Image]:
    """Draw one picture a prompt, each from a seed of its own."""
    return [draw(prompt, seed=FIRST_SEED + i, **options) for i, prompt in enumerate(tqdm(prompts, what))]


def share(readings: Sequence[Reading], **wanted: str) -> float:
    """Return how many of the readings have all the values wanted."""
    return sum(all(reading[name] == value for name, value in wanted.items()) for reading in readings) / len(readings)


def told(hits: Sequence[bool]) -> dict[str, Any]:
    """Return a share (of none there is none), of how many, and where it lies with 95 % confidence (Wilson 1927)."""
    if not hits:
        return {"share": None, "of": 0}
    n, p, z = len(hits), sum(hits) / len(hits), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"share": p, "of": n, "between": [(middle + side * half) / (1 + z * z / n) for side in (-1, 1)]}


def measure_prompts(prompts: Sequence[Prompt], readings: Sequence[Reading]) -> dict[str, Any]:
    """Return how much of what was asked for the probes found: by attribute, by thing, and whole pictures."""
    found = [
        {name: reading[name] == value for name, value in prompt.asked.items()}
        for prompt, reading in zip(prompts, readings, strict=True)
    ]
    by_name = {name: [hits[name] for hits in found if name in hits] for name in ATTRIBUTES}
    by_thing: dict[str, list[bool]] = {}
    for prompt, hits in zip(prompts, found, strict=True):
        by_thing.setdefault(prompt.asked.get("thing", "none"), []).extend(hits.values())
    unasked = [
        reading["thing"] is None
        for prompt, reading in zip(prompts, readings, strict=True)
        if "thing" not in prompt.asked
    ]
    return {
        "by attribute": {name: told(hits) for name, hits in by_name.items()},
        "by thing": {thing: told(hits) for thing, hits in sorted(by_thing.items())},
        "all attributes": told([hit for hits in found for hit in hits.values()]),
        "count, place and colour": told([hit for name in ("count", "place", "colour") for hit in by_name[name]]),
        "pictures with all that was asked": told([all(hits.values()) for hits in found]),
        "no thing where none was asked": told(unasked),
    }


def measure_guidance(draw: Draw, probes: Probes, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the share of attributes shown by guidance scale; 1 is none."""
    asked, texts = [prompt.asked for prompt in prompts], [prompt.text for prompt in prompts]
    return {
        str(scale): probes.score(asked, draw_all(draw, texts, f"guidance {scale}", guidance_scale=scale))["overall"]
        for scale in (1.0, 2.0, 4.0, 7.0)
    }


def measure_negative_prompt(draw: Draw, probes: Probes) -> dict[str, float]:
    """Ask for landscapes in words that leave time and sky open, and say what is not wanted."""
    prompts = [LANDS[i % len(LANDS)] for i in range(FEW)]
    shares = {}
    plain = probes.read(draw_all(draw, prompts, "no negative prompt"))
    for negative, name, value in (("at night", "time", "night"), ("at noon", "time", "noon"), ("rain", "sky", "rainy")):
        readings = probes.read(draw_all(draw, prompts, f"negative: {negative}", negative_prompt=negative))
        shares[f"{value} without it"] = share(plain, **{name: value})
        shares[f"{value} with negative prompt {negative!r}"] = share(readings, **{name: value})
    return shares


def measure_image_to_image(draw: Draw, probes: Probes) -> dict[str, dict[str, float]]:
    """Redraw lands at noon as lands at sunset: the more strength, the more changes."""
    prompts = [LANDS[i % len(LANDS)] for i in range(FEW)]
    before = draw_all(draw, [f"{prompt} at noon under a clear sky" for prompt in prompts], "at noon")
    lands = [reading["land"] for reading in probes.read(before)]
    figures = {}
    for strength in (0.2, 0.5, 0.8):
        after = [
            draw(f"{prompt} at sunset", seed=i, image=picture, strength=strength)
            for i, (prompt, picture) in enumerate(zip(tqdm(prompts, f"strength {strength}"), before, strict=True))
        ]
        readings = probes.read(after)
        figures[str(strength)] = {
            "time changed to sunset": share(readings, time="sunset"),
            "land kept": sum(reading["land"] == land for reading, land in zip(readings, lands, strict=True)) / FEW,
            "mean change, of 255": float(np.mean([distance(*pair) for pair in zip(before, after, strict=True)])),
        }
    return figures


def measure_inpainting(draw: Draw, probes: Probes) -> dict[str, float]:
    """Paint a red house into the left of empty hills; what is not under the mask must stay as it was."""
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, MASK_BOX)
    kept = np.asarray(mask) == 0
    hills = draw_all(draw, ["hills at noon under a clear sky"] * FEW, "hills")
    houses = [
        draw("a red house on the left in hills at noon", seed=i, image=picture, mask=mask, strength=1.0)
        for i, picture in enumerate(tqdm(hills, "a house painted in"))
    ]
    before, after = probes.read(hills), probes.read(houses)
    changes = [np.abs(pixels(old) - pixels(new)).mean(axis=2) for old, new in zip(hills, houses, strict=True)]
    return {
        "house before": share(before, thing="house"),
        "house after": share(after, thing="house"),
        "red house on the left after": share(after, thing="house", colour="red", place="left"),
        "mean change under the mask, of 255": float(np.mean([change[~kept].mean() for change in changes])),
        "mean change outside, of 255": float(np.mean([change[kept].mean() for change in changes])),
    }


def held_out_scenes(count: int) -> list[Scene]:
    """Return scenes that training never showed."""
    generator = np.random.default_rng(0)
    return [draw_held_out_scene(generator, number) for number in range(count)]


def measure_seeds(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> dict[str, float]:
    """Return how far two seeds of the same prompt are from each other, and how far two seeds of a painted scene."""
    painted = [distance(paint(scene, 1), paint(scene, 2)) for scene in held_out_scenes(len(pictures))]
    drawn = [distance(*pair) for pair in zip(pictures, others, strict=True)]
    return {
        "mean difference, of 255": float(np.mean(drawn)),
        "smallest": float(np.min(drawn)),
        "painted scenes' mean": float(np.mean(painted)),
    }


def measure_vae(pipeline: Pipeline, probes: Probes, count: int = 200) -> dict[str, float]:
    """Return what held-out painted scenes keep on their way through the VAE: PSNR, and what the probes still read."""
    scenes = held_out_scenes(count)
    painted = [paint(scene, 2 * 10**9 + number) for number, scene in enumerate(scenes)]
    decoded = [
        to_pictures(pipeline.decode_latents(pipeline.encode_image(to_array(picture, SIZE, SIZE))))[0]
        for picture in tqdm(painted, "VAE")
    ]
    values = [psnr(pixels(before), pixels(after), peak=255) for before, after in zip(painted, decoded, strict=True)]
    right = [
        [reading[name] == getattr(scene, name) for name in ATTRIBUTES]
        for scene, reading in zip(scenes, probes.read(decoded), strict=True)
    ]
    return {
        "mean, dB": float(np.mean(values)),
        "lowest, dB": float(np.min(values)),
        "probes right": float(np.mean(right)),
    }


def pixels(picture: Image.Image) -> NDArray[np.float64]:
    """Return a picture's values, 0..255."""
    return np.asarray(picture.convert("RGB"), np.float64)


def distance(first: Image.Image, second: Image.Image) -> float:
    """Return the mean absolute difference of two pictures, of 255."""
    return float(np.abs(pixels(first) - pixels(second)).mean())


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
    parser.add_argument("--lora", type=Path, help="a LoRA to draw with, such as the few-step model")
    parser.add_argument("--count", type=int, default=500, help="how many held-out prompts")
    parser.add_argument("--wording", type=int, default=WORDING_SEED, help="seed of the prompts' scenes and words")
    parser.add_argument("--steps", type=int, help="default: the bundle's")
    parser.add_argument("--guidance", type=float, help="default: the bundle's")
    parser.add_argument("--threads", type=positive, help="of each picture (default: one a core)")
    add_arithmetic(parser)
    parser.add_argument("--sampler", help="default: the bundle's")
    parser.add_argument("--scheduler", help="default: the sampler's")
    parser.add_argument("--only-prompts", action="store_true", help="skip all but the prompts and the VAE")
    parser.add_argument("--output", type=output_path, help="where to write the results as JSON")
    parser.add_argument("--grid", type=Path, help="where to put a grid of the first samples")
    arguments = parser.parse_args()

    try:
        pipeline = Pipeline.load(
            arguments.model,
            threads=arguments.threads,
            arithmetic=arguments.arithmetic,
            loras=[arguments.lora] if arguments.lora else [],
        )
    except PocketDiffusionError as error:
        parser.error(str(error))
    draw, probes = drawer(pipeline), Probes.load()
    prompts = held_out_prompts(arguments.count, arguments.wording)
    settings = {
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "sampler": arguments.sampler,
        "scheduler": arguments.scheduler,
    }
    pictures = draw_all(draw, [prompt.text for prompt in prompts], "held-out prompts", **settings)
    readings = probes.read(pictures)
    defaults = pipeline.bundle.manifest.defaults
    results: dict[str, Any] = {
        "benchmark": "landscapes",
        "machine": machine_facts(),
        "bundle": pipeline.name,
        "lora": arguments.lora and arguments.lora.name,
        "arithmetic": pipeline.arithmetic,
        "steps": arguments.steps or defaults.steps,
        "sampler": arguments.sampler or defaults.sampler,
        "scheduler": arguments.scheduler or (None if arguments.sampler else defaults.scheduler),
        "guidance": defaults.guidance_scale if arguments.guidance is None else arguments.guidance,
        "wording": arguments.wording,
        "prompts": measure_prompts(prompts, readings),
        "vae": measure_vae(pipeline, probes),
    }
    if not arguments.only_prompts:
        few = prompts[:FEW]
        others = [draw(prompt.text, seed=i, **settings) for i, prompt in enumerate(tqdm(few, "other seeds"))]
        results["seeds"] = measure_seeds(pictures[:FEW], others)
        results["guidance scales"] = measure_guidance(draw, probes, few)
        results["negative prompt"] = measure_negative_prompt(draw, probes)
        results["image to image"] = measure_image_to_image(draw, probes)
        results["inpainting"] = measure_inpainting(draw, probes)
    if arguments.grid:
        save_grid(pictures, arguments.grid)
        results["grid_prompts"] = [prompt.text for prompt in prompts[: GRID[0] * GRID[1]]]
    publish(results, [json.dumps(results, indent=2)], arguments.output)


if __name__ == "__main__":
    main()
