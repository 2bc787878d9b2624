"""What each cache saves, and how far its pictures are from those that are evaluated in full.

    python benchmarks/caches.py [BUNDLE] [--count 10] [--caches reuse:2,reuse:3,deep:3] [--steps 20]
                                [--sampler dpmpp_2m] [--sheet caches.png] [--output results.json]

For each held-out prompt of the embedded model, a picture is drawn with every cache by turns. Reported are the median
time of a picture and of its ratio to the uncached one, and the PSNR of the pictures: median and worst. On random
weights, time alone tells something.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from differences import compare_pictures
from landscapes import FIRST_SEED
from machine import describe, machine_facts
from pocket_diffusion import Pipeline
from pocket_diffusion.drawing.caches import NO_CACHE
from pocket_models.landscapes.captions import held_out_prompts
from report import markdown_table, output_path, positive, publish, workload_parser

CACHES = "reuse:2,reuse:3,reuse:4,deep:2,deep:3,deep:5"
_LABEL = 14
"""Pixels for a cache's label in the sheet."""


def sheet(pictures: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Return all pictures: a row a cache, with its label above."""
    width, height = next(iter(pictures.values()))[0].size
    whole = Image.new("RGB", (len(pictures[NO_CACHE]) * width, len(pictures) * (height + _LABEL)), "white")
    for row, (name, ones) in enumerate(pictures.items()):
        ImageDraw.Draw(whole).text((2, row * (height + _LABEL) + 1), name, "black")
        for column, one in enumerate(ones):
            whole.paste(one, (column * width, row * (height + _LABEL) + _LABEL))
    return whole


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: a row a cache."""
    workload = figures["workload"]
    facts = (
        f"{figures['bundle']}, {workload['sampler'] or 'its own sampler'}, {workload['steps']} steps, "
        f"{workload['count']} held-out prompts, arithmetic {workload['arithmetic']}; {describe(figures['machine'])}"
    )
    rows = [
        [
            name,
            f"{measured['seconds']:.2f}",
            f"{measured['ratio']:.2f}",
            f"{measured['psnr_db']['median']:.1f}",
            f"{measured['psnr_db']['worst']:.1f}",
        ]
        for name, measured in figures["measurements"].items()
    ]
    return [facts, markdown_table(["cache", "s a picture", "of uncached", "PSNR, dB", "worst"], rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=20)
    parser.add_argument("--count", type=positive, default=10, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--caches", default=CACHES, help="by commas (default: %(default)s)")
    parser.add_argument("--sampler", help="default: the bundle's")
    parser.add_argument("--sheet", type=output_path, metavar="FILE.png", help="write all pictures there")
    arguments = parser.parse_args()

    prompts, names = held_out_prompts(arguments.count, 1), [NO_CACHE, *arguments.caches.split(",")]
    width, height = arguments.size or (None, None)
    drawn = {"steps": arguments.steps, "sampler": arguments.sampler, "width": width, "height": height}
    pictures: dict[str, list[Image.Image]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with Pipeline.load(
        None if arguments.bundle is None else Path(arguments.bundle),
        provider=arguments.provider,
        threads=arguments.threads,
        memory=arguments.memory,
        arithmetic=arguments.arithmetic,
    ) as pipeline:
        for name in names:  # loads the graphs
            pipeline.generate(prompts[0].text, cache=name, **drawn)
        for i, prompt in enumerate(tqdm(prompts, "prompts")):
            pipeline.encode_prompt(prompt.text)  # so that no cache pays for it alone
            for name in names:
                start = time.perf_counter()
                pictures[name] += pipeline.generate(prompt.text, seed=FIRST_SEED + i, cache=name, **drawn).images
                seconds[name].append(time.perf_counter() - start)
        source, arithmetic = pipeline.name, pipeline.arithmetic
    if arguments.sheet is not None:
        sheet(pictures).save(arguments.sheet)
    alike = {name: compare_pictures(pictures[NO_CACHE], pictures[name]) for name in names}
    figures = {
        "benchmark": "caches",
        "machine": machine_facts(),
        "bundle": source,
        "workload": {
            "count": arguments.count,
            "steps": arguments.steps,
            "sampler": arguments.sampler,
            "arithmetic": arithmetic,
            "size": arguments.size,
        },
        "measurements": {
            name: {
                "seconds": statistics.median(seconds[name]),
                "ratio": float(np.median(np.divide(seconds[name], seconds[NO_CACHE]))),
                "psnr_db": {"median": statistics.median(alike[name]), "worst": min(alike[name])},
            }
            for name in names
        },
    }
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
