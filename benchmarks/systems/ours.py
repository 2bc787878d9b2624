"""The runtime itself, through `Pipeline.generate`, as any program uses it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.model.components import Arrays, Network
from stages import Workload, draw_picture
from timeline import Timeline


class Marked:
    """A network that marks when it begins and ends, which the pipeline does not tell apart from its loading."""

    def __init__(self, network: Network, role: str, timeline: Timeline) -> None:
        self._network, self._role, self._timeline = network, role, timeline

    def run(self, **inputs: NDArray[Any]) -> Arrays:
        """Run it between two marks."""
        self._timeline.mark(f"{self._role} begins")
        outputs = self._network.run(**inputs)
        self._timeline.mark(f"{self._role} ends")
        return outputs

    def close(self) -> None:
        """Give the memory back."""
        self._network.close()


def draw(workload: Workload, timeline: Timeline) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the latents and the pictures, 8-bit."""
    timeline.mark("imports")
    pipeline = workload.load_pipeline_with(lambda role: Marked(pipeline.components.open_session(role), role, timeline))
    timeline.mark("load")
    return draw_picture(pipeline, workload, timeline)
