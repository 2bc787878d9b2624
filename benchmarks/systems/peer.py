"""A picture drawn with another system's networks: everything around them is the runtime's own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.guidance import classifier_free
from pocket_diffusion.images import to_pictures
from pocket_diffusion.noise import NoiseGenerator
from pocket_diffusion.prompt import encode
from pocket_diffusion.samplers import SAMPLERS
from stages import PROMPT, SEED, Workload, latent_shape
from timeline import Timeline

Network = Callable[..., NDArray[np.float32]]
"""Arrays in by the names of a bundle's graphs, one array out."""
OpenNetwork = Callable[[Path, str, int | None], Network]
"""Opens a network: from a folder of files, by its component's name, with so many threads (`None`: its own choice)."""


def draw_with(
    open_network: OpenNetwork, files: Path, workload: Workload, timeline: Timeline
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the latents and the picture, 8-bit. Each network is opened when it is first needed, and kept."""
    timeline.mark("imports")
    pipeline = workload.load_pipeline()  # for what the bundle's manifest and tokenizer say; no graph is loaded
    manifest = pipeline.bundle.manifest
    timeline.mark("load")

    def opened(component: str) -> Network:
        network = open_network(files, component, workload.threads)

        def run(**inputs: NDArray[Any]) -> NDArray[np.float32]:
            timeline.mark(f"{component} begins")
            return network(**inputs)

        return run

    ids = np.concatenate([encode(text, pipeline.tokenizer) for text in ("", PROMPT)])
    context = opened("text_encoder")(ids=ids)
    sampler = SAMPLERS[manifest.defaults.sampler](manifest.schedule, workload.steps)
    generator = NoiseGenerator(SEED)
    shape = (1, *latent_shape(pipeline, workload))
    latents = generator.normal(shape)
    unet = opened("unet")
    for index, timestep in enumerate(sampler.timesteps):
        both = unet(
            latents=np.concatenate([latents, latents]), timestep=np.full(2, timestep, np.float32), context=context
        )
        prediction = classifier_free(both[:1], both[1:], manifest.defaults.guidance_scale)
        latents = sampler.step(latents, prediction, index, partial(generator.normal, shape))
        timeline.mark("step ends")
    decoded = opened("vae_decoder")(latents=latents / np.float32(manifest.latents.scaling_factor))
    pictures = np.stack([np.asarray(picture) for picture in to_pictures(decoded)])
    timeline.mark("picture")
    return latents, pictures
