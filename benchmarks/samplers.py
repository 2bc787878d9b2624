"""How good a picture each sampler draws for how many evaluations of the U-Net, on the embedded model.

    python benchmarks/samplers.py [--count 20] [--evaluations 6,10,20,40] [--pairs SAMPLER/SCHEDULER,…]
                                  [--output results.json] [--grid samplers.png]

Two measures. *Distance*: root mean square difference, of 255, between a picture and the one that the same sampler
draws from the same seed in 200 evaluations, which is the solution of its equation. Samplers with fresh noise at each
step have none, unless a Brownian path fixes their noise. *Shown*: the share of what held-out prompts ask for that the
probes find.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from landscapes import FIRST_SEED, pixels, told
from machine import describe, machine_facts
from pocket_diffusion import InvalidRequestError, Pipeline
from pocket_diffusion.drawing.samplers import SAMPLERS, SamplerKind, find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS, find_scheduler
from pocket_models.landscapes.captions import Prompt, held_out_prompts
from pocket_models.landscapes.probes import Probes
from report import markdown_table, not_negative, output_path, positive, publish

SOLUTION = 200
"""Evaluations that are taken for the solution."""
SOLVED = 6
"""Pictures whose solution is drawn."""
NEED_DISTILLED_MODELS = ("lcm", "tcd")
OTHER_SPACINGS = (
    "dpmpp_2m/simple",
    "dpmpp_2m/trailing",
    "dpmpp_2m/sgm_uniform",
    "dpmpp_2m/align_your_steps",
    "unipc/normal",
    "unipc/trailing",
    "deis/normal",
    "euler/trailing",
)
"""Beside each sampler with its own scheduler: candidates for a default."""
_LABEL = 14
"""Pixels for a sampler's label in the grid."""


@dataclass(frozen=True)
class Pair:
    """A sampler with a scheduler."""

    kind: SamplerKind
    scheduler: str | None
    """None is the sampler's own."""

    @classmethod
    def parse(cls, text: str) -> "Pair":
        """Read `dpmpp_2m` or `dpmpp_2m/karras`."""
        sampler, _, scheduler = text.partition("/")
        kind, named = find_sampler(sampler)
        if scheduler:
            named = find_scheduler(scheduler).name
        return cls(kind, named if named in SCHEDULERS else None)

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        return self.kind.name if self.scheduler is None else f"{self.kind.name}/{self.scheduler}"

    @property
    def has_solution(self) -> bool:
        """Whether more steps lead to one picture."""
        return not self.kind.eta or self.kind.is_brownian

    def settings(self, evaluations: int) -> dict[str, Any]:
        """Return the options of a drawing that evaluates the U-Net so often."""
        steps = max(1, evaluations // self.kind.evaluations)
        return {"sampler": self.kind.name, "scheduler": self.scheduler, "steps": steps}

    def draw(self, pipeline: Pipeline, prompts: Sequence[Prompt], evaluations: int) -> list[Image.Image]:
        """Draw one picture a prompt, each from a seed of its own."""
        what = f"{self.name}, {evaluations} evaluations"
        return [
            pipeline.generate(prompt.text, seed=FIRST_SEED + i, **self.settings(evaluations)).images[0]
            for i, prompt in enumerate(tqdm(prompts, what))
        ]


def distance(pictures: Sequence[Image.Image], solutions: Sequence[Image.Image]) -> dict[str, float]:
    """Return the root mean square difference of pictures to their solutions, of 255: median and largest."""
    values = [
        float(np.sqrt(np.mean((pixels(one) - pixels(other)) ** 2)))
        for one, other in zip(pictures, solutions, strict=False)
    ]
    return {"median": float(np.median(values)), "largest": max(values)}


def measure(
    pair: Pair, pipeline: Pipeline, probes: Probes, prompts: Sequence[Prompt], budgets: Sequence[int]
) -> dict[str, Any]:
    """Return, by evaluations, how far from the solution the pictures are, what they show, and their time."""
    solutions = pair.draw(pipeline, prompts[:SOLVED], SOLUTION) if pair.has_solution else None
    figures: dict[str, Any] = {}
    for evaluations in budgets:
        start = time.perf_counter()
        pictures = pair.draw(pipeline, prompts, evaluations)
        seconds = (time.perf_counter() - start) / len(prompts)
        hits = [
            reading[name] == value
            for prompt, reading in zip(prompts, probes.read(pictures), strict=True)
            for name, value in prompt.asked.items()
        ]
        figures[str(evaluations)] = {
            "shown": told(hits),
            "distance": None if solutions is None else distance(pictures, solutions),
            "seconds a picture": seconds,
        }
    return figures


def draw_grid(pipeline: Pipeline, pairs: Sequence[Pair], steps: int, prompt: str, seed: int) -> Image.Image:
    """Draw the same prompt and seed with each sampler in equal steps, with its label below."""
    columns, side = 6, pipeline.bundle.manifest.defaults.width
    rows = -(-len(pairs) // columns)
    grid = Image.new("RGB", (columns * (side + 4) - 4, rows * (side + _LABEL + 4)), "white")
    for i, pair in enumerate(pairs):
        result = pipeline.generate(prompt, seed=seed, **pair.settings(steps * pair.kind.evaluations))
        x, y = i % columns * (side + 4), i // columns * (side + _LABEL + 4)
        grid.paste(result.images[0], (x, y))
        ImageDraw.Draw(grid).text((x + 2, y + side + 1), pair.kind.label, "black")
    return grid


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: a row a sampler, with both measures by evaluations."""
    budgets = figures["workload"]["evaluations"]
    header = ["", *(f"distance, {n}" for n in budgets), *(f"shown, {n}" for n in budgets)]
    rows = []
    for name, measured in figures["measurements"].items():
        far = [measured[str(n)]["distance"] for n in budgets]
        shown = [measured[str(n)]["shown"]["share"] for n in budgets]
        rows.append(
            [
                name,
                *("–" if one is None else f"{one['median']:.1f}" for one in far),
                *(f"{100 * s:.1f} %" for s in shown),
            ]
        )
    facts = f"{figures['bundle']}, {figures['workload']['count']} held-out prompts; {describe(figures['machine'])}"
    return [facts, markdown_table(header, rows)]


def _pairs(text: str) -> list[Pair]:
    try:
        return [Pair.parse(one) for one in text.split(",")]
    except InvalidRequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _budgets(text: str) -> list[int]:
    return [positive(one) for one in text.split(",")]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a bundle of the landscapes model (default: the embedded one)")
    parser.add_argument("--count", type=positive, default=20, help="held-out prompts (default: %(default)s)")
    parser.add_argument(
        "--evaluations", type=_budgets, default="6,10,20,40", help="of the U-Net, a picture (default: %(default)s)"
    )
    usual = ",".join([*(name for name in SAMPLERS if name not in NEED_DISTILLED_MODELS), *OTHER_SPACINGS])
    parser.add_argument(
        "--pairs",
        type=_pairs,
        default=usual,
        metavar="SAMPLER[/SCHEDULER],…",
        help="default: each sampler with its own scheduler, but those for distilled models, and some other pairs",
    )
    parser.add_argument("--threads", type=positive, help="of each picture (default: one a core)")
    parser.add_argument("--output", type=output_path, help="where to write the results as JSON")
    parser.add_argument("--grid", type=Path, help="where to put a picture of each sampler")
    parser.add_argument("--grid-steps", type=positive, default=10, help="of each (default: %(default)s)")
    parser.add_argument("--grid-seed", type=not_negative, default=1)
    parser.add_argument("--only-grid", action="store_true", help="measure nothing")
    arguments = parser.parse_args()

    with Pipeline.load(arguments.model, threads=arguments.threads) as pipeline:
        if arguments.grid:
            prompt = "a lake under snowy mountains at sunset"
            grid = draw_grid(pipeline, arguments.pairs, arguments.grid_steps, prompt, arguments.grid_seed)
            grid.save(arguments.grid, optimize=True)
        if arguments.only_grid:
            return
        probes, prompts = Probes.load(), held_out_prompts(arguments.count, 1)
        figures: dict[str, Any] = {
            "benchmark": "samplers",
            "machine": machine_facts(),
            "bundle": pipeline.name,
            "workload": {"count": arguments.count, "evaluations": arguments.evaluations, "solution": SOLUTION},
            "measurements": {
                pair.name: measure(pair, pipeline, probes, prompts, arguments.evaluations) for pair in arguments.pairs
            },
        }
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
