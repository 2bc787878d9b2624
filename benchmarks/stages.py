"""The work that is measured: each stage of drawing one picture, with fixed inputs of the right shapes.

    python benchmarks/stages.py WORKLOAD

draws a picture in this process and prints its timings, for benchmarks that want a fresh process; WORKLOAD is JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion import Pipeline, PocketDiffusionError, Result
from pocket_diffusion.addon import choose_vae
from pocket_diffusion.bundle import COMPONENTS, Bundle
from pocket_diffusion.machine.session import Provider
from pocket_diffusion.model.arithmetic import choose_arithmetic
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.model.components import Components, OpenNetwork
from pocket_diffusion.model.memory import MODES, Demand
from pocket_diffusion.pipeline import DEFAULT_BUNDLE, OnStep
from timeline import Timeline

PROMPT = "a lake under snowy mountains at sunset"
SEED = 0
MIDDLE_TIMESTEP = 500.0


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
    memory: str
    """The runtime's memory mode."""
    arithmetic: str = AUTO
    """The runtime's arithmetic."""
    count: int = 1
    """Pictures drawn together."""
    sampler: str = "ddpm"
    """One evaluation a step, and the one that earlier figures were measured with."""
    scheduler: str | None = None
    guidance_scale: float | None = None
    """`None` is the bundle's own."""
    cache: str | None = None
    vae: str | None = None
    """`tiny` draws with the tiny VAE that lies with the bundle."""

    @property
    def folder(self) -> Path:
        """Where the bundle's files are."""
        return DEFAULT_BUNDLE if self.bundle is None else Path(self.bundle)

    def load_pipeline(self) -> Pipeline:
        """Return a pipeline with no graph loaded yet."""
        return Pipeline.load(
            self.bundle,
            provider=self.provider,
            threads=self.threads,
            memory=self.memory,
            arithmetic=self.arithmetic,
            vae=self.vae,
        )

    def load_pipeline_with(self, open_network: OpenNetwork) -> Pipeline:
        """Return a pipeline around networks of another kind."""
        provider: Provider = "cuda" if self.provider == "cuda" else "cpu"
        budget = MemoryBudget.parse(self.memory)
        bundle = choose_vae(self.vae, Bundle.open(self.folder))
        components = Components(
            bundle,
            provider=provider,
            threads=self.threads,
            budget=budget,
            arithmetic=choose_arithmetic(self.arithmetic, bundle, provider),
            open_network=open_network,
        )
        return Pipeline(components)

    def as_json(self) -> str:
        """Return what `Workload(**json.loads(text))` makes a workload of again, for a process of its own."""
        return json.dumps(asdict(self))

    def facts(self, *, varied: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """Return what a report says of the bundle and of the picture, without what the benchmark varies."""
        pipeline = self.load_pipeline()
        manifest = pipeline.bundle.manifest
        bundle = {
            "name": pipeline.name,
            "target": manifest.target,
            "weights": manifest.weights,
            "parameters": {name: manifest.component(name).parameters for name in COMPONENTS},
            "bytes_on_disk": sum(record.size for record in manifest.files.values()),
        }
        workload = {name: fact for name, fact in asdict(self).items() if name not in ("bundle", *varied)}
        return {"bundle": bundle, "workload": workload}


def parse_workload(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Workload]:
    """Read the command line and settle what it leaves to the bundle; a fault in it ends the program with status 2."""
    arguments = parser.parse_args()
    try:
        pipeline = Pipeline.load(
            arguments.bundle,
            provider=arguments.provider,
            threads=arguments.threads,
            memory=arguments.memory,
            arithmetic=arguments.arithmetic,
        )
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
        memory=_memory_mode(pipeline, arguments.memory, width, height),
        arithmetic=pipeline.arithmetic,
    )


def _memory_mode(pipeline: Pipeline, asked: str, width: int, height: int) -> str:
    """Return the mode that the runtime would choose for a picture of this size."""
    manifest = pipeline.bundle.manifest
    demand = replace(Demand.usual(manifest), width=width, height=height)
    return MemoryBudget.parse(asked).choose(manifest, demand, pipeline.provider).mode.name


def encode_prompt(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare the text encoder's run on one prompt."""
    return partial(pipeline.encode_prompt, PROMPT)


def guided_step(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare a guided U-Net evaluation: one run under two contexts, or, where memory is short, two runs."""
    runs, contexts = (1, 2) if MODES[pipeline.memory].guide_together else (2, 1)
    evaluation = _evaluation(pipeline, workload, contexts)

    def step() -> None:
        for _ in range(runs):
            evaluation()

    return step


def unguided_evaluation(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare a U-Net evaluation under one context."""
    return _evaluation(pipeline, workload, contexts=1)


def encode_image(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare the VAE encoder's run on one picture."""
    return partial(pipeline.encode_image, np.tanh(_normal(1, 3, workload.height, workload.width)))


def decode_latents(pipeline: Pipeline, workload: Workload) -> Callable[[], object]:
    """Prepare the VAE decoder's run on one picture's latents."""
    return partial(pipeline.decode_latents, _normal(1, *latent_shape(pipeline, workload)))


def draw(pipeline: Pipeline, workload: Workload, on_step: OnStep | None = None) -> Result:
    """Draw the picture that is measured."""
    return pipeline.generate(
        PROMPT,
        width=workload.width,
        height=workload.height,
        steps=workload.steps,
        sampler=workload.sampler,
        scheduler=workload.scheduler,
        guidance_scale=workload.guidance_scale,
        cache=workload.cache,
        seed=SEED,
        count=workload.count,
        on_step=on_step,
    )


def draw_picture(
    pipeline: Pipeline, workload: Workload, timeline: Timeline
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw, and mark each step; return the latents and the pictures, 8-bit."""
    result = draw(pipeline, workload, lambda _step, _total, _latents: timeline.mark("step ends"))
    pictures = np.stack([np.asarray(image) for image in result.images])
    timeline.mark("picture")
    return result.latents, pictures


def whole_picture(pipeline: Pipeline, workload: Workload) -> Callable[[], dict[str, float]]:
    """Prepare the drawing of a picture, which returns `Result.timings`."""
    return lambda: dict(draw(pipeline, workload).timings)


def evaluation_inputs(workload: Workload) -> dict[str, NDArray[np.float32]]:
    """Return what `evaluate` takes, so that all systems are fed the same; the contexts are those of a guided step."""
    with workload.load_pipeline() as pipeline:
        contexts = [pipeline.encode_prompt(""), pipeline.encode_prompt(PROMPT)]
        return {"latents": _normal(1, *latent_shape(pipeline, workload)), "context": np.concatenate(contexts)}


def evaluate(
    pipeline: Pipeline, latents: NDArray[np.float32], context: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Run the U-Net and the VAE decoder once on `[1, 4, h/8, w/8]`; return `noise` and `decoded`."""
    return {
        "noise": pipeline.predict_noise(latents, MIDDLE_TIMESTEP, context),
        "decoded": pipeline.decode_latents(latents),
    }


WHOLE = "whole picture"
STAGES: dict[str, Callable[[Pipeline, Workload], Callable[[], object]]] = {
    "encode prompt": encode_prompt,
    "guided step": guided_step,
    "unguided evaluation": unguided_evaluation,
    "encode image": encode_image,
    "decode latents": decode_latents,
    WHOLE: whole_picture,
}
"""Each takes a pipeline and a workload, prepares the inputs, and returns what is to be measured."""


def latent_shape(pipeline: Pipeline, workload: Workload) -> tuple[int, int, int]:
    """Return the channels, height and width of one picture's latents."""
    spec = pipeline.bundle.manifest.latents
    return spec.channels, workload.height // spec.downscale, workload.width // spec.downscale


def _evaluation(pipeline: Pipeline, workload: Workload, contexts: int) -> Callable[[], object]:
    """Prepare one run of the U-Net on one picture's latents under so many contexts."""
    text = pipeline.bundle.manifest.text_encoder.outputs[0]  # [batch, 77, dim]
    context = _normal(contexts, *(extent for extent in text.shape if isinstance(extent, int)))
    latents = _normal(1, *latent_shape(pipeline, workload))
    return partial(pipeline.predict_noise, latents, MIDDLE_TIMESTEP, context)


def _normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(SEED).standard_normal(shape, np.float32)


def main() -> None:
    """Draw a picture."""
    workload = Workload(**json.loads(sys.argv[1]))
    json.dump(whole_picture(workload.load_pipeline(), workload)(), sys.stdout)


if __name__ == "__main__":
    main()
