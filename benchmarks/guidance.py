"""What limiting and rescaling guidance save and change, on the embedded model.

    python benchmarks/guidance.py [--count 48] [--output results.json]

For each held-out prompt, a picture is drawn in every setting by turns. Reported are the median time of a picture and of
its ratio to full guidance, the root mean square difference to the fully guided picture (of 255), and the share of what
was asked for that the probes find.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from landscapes import FIRST_SEED, measure_prompts
from machine import describe, machine_facts
from pocket_diffusion import Pipeline
from pocket_models.landscapes.captions import held_out_prompts
from pocket_models.landscapes.probes import Probes
from report import markdown_table, output_path, positive, publish
from samplers import distance

FULL = "full guidance"
SETTINGS: dict[str, dict[str, Any]] = {
    FULL: {},
    "interval 0:0.8": {"guidance_interval": (0.0, 0.8)},
    "interval 0:0.6": {"guidance_interval": (0.0, 0.6)},
    "interval 0.2:0.8": {"guidance_interval": (0.2, 0.8)},
    "interval 0.2:1": {"guidance_interval": (0.2, 1.0)},
    "rescale 0.3": {"guidance_rescale": 0.3},
    "rescale 0.7": {"guidance_rescale": 0.7},
    "none (scale 1)": {"guidance_scale": 1.0},
}


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: a row a setting."""
    facts = f"{figures['bundle']}, {figures['workload']['count']} held-out prompts; {describe(figures['machine'])}"
    rows = [
        [
            name,
            f"{measured['seconds']:.2f}",
            f"{measured['ratio']:.2f}",
            f"{measured['distance']['median']:.1f}",
            f"{100 * measured['shown']['share']:.1f} %",
        ]
        for name, measured in figures["measurements"].items()
    ]
    return [facts, markdown_table(["", "s a picture", "of full", "difference, of 255", "shown"], rows)]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a bundle of the landscapes model (default: the embedded one)")
    parser.add_argument("--count", type=positive, default=48, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--output", type=output_path, help="where to write the results as JSON")
    arguments = parser.parse_args()

    prompts, probes = held_out_prompts(arguments.count, 1), Probes.load()
    pictures: dict[str, list[Image.Image]] = {name: [] for name in SETTINGS}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with Pipeline.load(arguments.model) as pipeline:
        pipeline.generate(prompts[0].text)  # loads the graphs
        for i, prompt in enumerate(tqdm(prompts, "prompts")):
            pipeline.encode_prompt(prompt.text)  # so that no setting pays for it alone
            for name, settings in SETTINGS.items():
                start = time.perf_counter()
                pictures[name] += pipeline.generate(prompt.text, seed=FIRST_SEED + i, **settings).images
                seconds[name].append(time.perf_counter() - start)
        source = pipeline.name
    figures = {
        "benchmark": "guidance",
        "machine": machine_facts(),
        "bundle": source,
        "workload": {"count": arguments.count},
        "measurements": {
            name: {
                "seconds": statistics.median(seconds[name]),
                "ratio": float(np.median(np.divide(seconds[name], seconds[FULL]))),
                "distance": distance(pictures[name], pictures[FULL]),
                "shown": measure_prompts(prompts, probes.read(pictures[name]))["all attributes"],
            }
            for name in SETTINGS
        },
    }
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
