"""The runtime on a graphics card, in batches of pictures."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpu import Turn
from stages import Workload, draw
from systems.ours import Loaded
from systems.ours import load as load_ours
from timeline import Timeline

if TYPE_CHECKING:
    from gpu_draw import Draw

SAMPLER = "ddim"
"""One evaluation a step, no noise of its own: pictures of other systems can be compared."""


def workload_of(turn: Turn) -> Workload:
    """Return the pictures of a turn, one at once and in one step."""
    return Workload(
        bundle=str(Path(turn.work, "ours")),
        width=turn.width,
        height=turn.height,
        steps=1,
        provider=turn.provider,
        threads=None,
        memory="fast",
        arithmetic="exact",
        sampler=SAMPLER,
    )


def drawing_with(loaded: Loaded, workload: Workload) -> "Draw":
    """Return what draws with a pipeline."""

    def run(count: int, steps: int) -> NDArray[np.uint8]:
        result = draw(loaded.pipeline, replace(workload, count=count, steps=steps))
        return np.stack([np.asarray(image) for image in result.images])

    return run


def load(turn: Turn, timeline: Timeline) -> "Draw":
    """See `gpu_draw.MODULES`."""
    workload = workload_of(turn)
    return drawing_with(load_ours(workload, timeline), workload)
