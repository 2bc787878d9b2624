"""The work that is measured: each stage of drawing one picture, with fixed inputs of the right shapes.

    python benchmarks/stages.py STAGE WORKLOAD

runs one stage in this process and prints its timings, for benchmarks that want a fresh process; WORKLOAD is JSON.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion import Pipeline, PocketDiffusionError
from pocket_diffusion.bundle import COMPONENTS
from pocket_diffusion.session import GraphSession

PROMPT = "a lake under snowy mountains at sunset"
SEED = 0
MIDDLE_TIMESTEP = 500.0


class StageError(Exception):
    """A stage that ran in a process of its own failed there."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Which picture, from which bundle, on what."""

    bundle: str | None
    """`None` is the embedded model."""
    width: int
    height: int
    steps: int
    provider: str
    threads: int | None

    def load_pipeline(self) -> Pipeline:
        """Return a pipeline with no graph loaded yet."""
        return Pipeline.load(self.bundle, provider=self.provider, threads=self.threads)

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return what a report says of the bundle and of the picture."""
        pipeline = self.load_pipeline()
        manifest = pipeline.bundle.manifest
        bundle = {
            "name": pipeline.name,
            "target": manifest.target,
            "weights": manifest.weights,
            "parameters": {name: manifest.component(name).parameters for name in COMPONENTS},
            "bytes_on_disk": sum(record.size for record in manifest.files.values()),
        }
        return {"bundle": bundle, "workload": {name: fact for name, fact in asdict(self).items() if name != "bundle"}}


def parse_workload(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Workload]:
    """Read the command line and settle what it leaves to the bundle; a fault in it ends the program with status 2."""
    arguments = parser.parse_args()
    try:
        pipeline = Pipeline.load(arguments.bundle, provider=arguments.provider, threads=arguments.threads)
    except PocketDiffusionError as error:
        parser.error(str(error))
    defaults = pipeline.bundle.manifest.defaults
    width, height = arguments.size or (defaults.width, defaults.height)
    return arguments, Workload(
        bundle=arguments.bundle,
        width=width,
        height=height,
        steps=arguments.steps or defaults.steps,
        provider=pipeline.provider,
        threads=arguments.threads,
    )


def open_session(pipeline: Pipeline, component: str) -> GraphSession:
    """Load one component anew, as the pipeline does when it first needs it."""
    bundle = pipeline.bundle
    return GraphSession(
        bundle.root, component, bundle.manifest.component(component), pipeline.provider, pipeline.threads
    )


def encode_prompt(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare the text encoder's run on one prompt."""
    return partial(pipeline.encode_prompt, PROMPT)


def guided_step(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare a guided U-Net evaluation, which is one run with a batch of 2."""
    text = pipeline.bundle.manifest.text_encoder.outputs[0]  # [batch, 77, dim]
    context = _normal(2, *(extent for extent in text.shape if isinstance(extent, int)))
    return partial(pipeline.predict_noise, _normal(2, *_latent_shape(pipeline, workload)), MIDDLE_TIMESTEP, context)


def encode_image(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare the VAE encoder's run on one picture."""
    return partial(pipeline.encode_image, np.tanh(_normal(1, 3, workload.height, workload.width)))


def decode_latents(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare the VAE decoder's run on one picture's latents."""
    return partial(pipeline.decode_latents, _normal(1, *_latent_shape(pipeline, workload)))


def whole_picture(pipeline: Pipeline, workload: Workload) -> Callable[[], dict[str, float]]:
    """Prepare the drawing of a picture, which returns `Result.timings`."""

    def draw() -> dict[str, float]:
        size = {"width": workload.width, "height": workload.height}
        return dict(pipeline.generate(PROMPT, steps=workload.steps, seed=SEED, **size).timings)

    return draw


STAGES: dict[str, Callable[[Pipeline, Workload], Callable[[], object]]] = {
    "encode prompt": encode_prompt,
    "guided step": guided_step,
    "encode image": encode_image,
    "decode latents": decode_latents,
    "whole picture": whole_picture,
}
"""Each takes a pipeline and a workload, prepares the inputs, and returns what is to be measured."""


def run_script(script: str, stage: str, workload: Workload) -> dict[str, float]:
    """Run a stage with one of these scripts in a fresh process, and return what that prints.

    Raises:
        StageError: the process failed, or was killed (for using too much memory, perhaps).

    """
    command = [sys.executable, str(Path(__file__).with_name(script)), stage, json.dumps(asdict(workload))]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode != 0:
        raise StageError(f"{stage!r} failed in a fresh process (exit status {process.returncode})")
    answer: dict[str, float] = json.loads(process.stdout)
    return answer


def _latent_shape(pipeline: Pipeline, workload: Workload) -> tuple[int, int, int]:
    spec = pipeline.bundle.manifest.latents
    return spec.channels, workload.height // spec.downscale, workload.width // spec.downscale


def _normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(SEED).standard_normal(shape, np.float32)


def main() -> None:
    """Run one stage."""
    stage, workload = sys.argv[1], Workload(**json.loads(sys.argv[2]))
    json.dump(STAGES[stage](workload.load_pipeline(), workload)(), sys.stdout)


if __name__ == "__main__":
    main()
