"""Another system's networks in a pipeline: everything around them is the runtime's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.model.components import Arrays
from stages import Workload
from systems.ours import Loaded, Marked
from timeline import Timeline


class Opened(NamedTuple):
    """Another system's network, ready to run."""

    run: Callable[..., NDArray[np.float32]]
    """Arrays in by the names of a bundle's graphs, one array out."""
    precision: Callable[[], str] = lambda: "f32"
    """What it multiplies in; asked once it has run."""


OpenNetwork = Callable[[Path, str, int | None], Opened]
"""Opens a network: from a folder of files, by its component's name, with so many threads (`None`: its own choice)."""


class PeerNetwork:
    """Another system's network in the place of a bundle's."""

    def __init__(self, opened: Opened, output: str) -> None:
        self._run, self._output = opened.run, output

    def run(self, *_: str, **inputs: NDArray[Any]) -> Arrays:
        """Compute the output; peers take as many latents as there are contexts."""
        if "context" in inputs:
            contexts = len(inputs["context"])
            inputs |= {name: np.repeat(inputs[name], contexts, axis=0) for name in ("latents", "timestep")}
        return {self._output: self._run(**inputs)}

    def close(self) -> None:
        """Forget it: it is opened anew where it is needed again."""


def load_with(open_network: OpenNetwork, files: Path, workload: Workload, timeline: Timeline) -> Loaded:
    """Return a pipeline around the peer's networks. Each is opened when it is first needed, and kept."""
    timeline.mark("imports")
    networks: dict[str, Opened] = {}

    def opened(role: str) -> Marked:
        file = f"tiny_{role}" if role.startswith("vae_") and workload.vae is not None else role
        networks[role] = open_network(files, file, workload.threads)
        output = pipeline.bundle.manifest.component(role).outputs[0].name
        return Marked(PeerNetwork(networks[role], output), role, timeline)

    # The mode that keeps networks and guides in one run.
    pipeline = replace(workload, memory="fast").load_pipeline_with(opened)
    timeline.mark("load")
    return Loaded(pipeline, lambda: networks["unet"].precision())
