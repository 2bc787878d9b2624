"""A picture drawn with another system's networks: everything around them is the runtime's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.model.components import Arrays
from stages import Workload, draw_picture
from systems.ours import Marked
from timeline import Timeline

Run = Callable[..., NDArray[np.float32]]
"""Arrays in by the names of a bundle's graphs, one array out."""
OpenNetwork = Callable[[Path, str, int | None], Run]
"""Opens a network: from a folder of files, by its component's name, with so many threads (`None`: its own choice)."""


class PeerNetwork:
    """Another system's network in the place of a bundle's."""

    def __init__(self, run: Run, output: str) -> None:
        self._run, self._output = run, output

    def run(self, **inputs: NDArray[Any]) -> Arrays:
        """Compute the output; peers take as many latents as there are contexts."""
        if "context" in inputs:
            contexts = len(inputs["context"])
            inputs |= {name: np.repeat(inputs[name], contexts, axis=0) for name in ("latents", "timestep")}
        return {self._output: self._run(**inputs)}

    def close(self) -> None:
        """Forget it: it is opened anew where it is needed again."""


def draw_with(
    open_network: OpenNetwork, files: Path, workload: Workload, timeline: Timeline
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the latents and the pictures, 8-bit. Each network is opened when it is first needed, and kept."""
    timeline.mark("imports")

    def opened(role: str) -> Marked:
        output = pipeline.bundle.manifest.component(role).outputs[0].name
        return Marked(PeerNetwork(open_network(files, role, workload.threads), output), role, timeline)

    # The mode that keeps networks and guides in one run.
    pipeline = replace(workload, memory="fast").load_pipeline_with(opened)
    timeline.mark("load")
    return draw_picture(pipeline, workload, timeline)
