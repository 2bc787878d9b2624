"""The runtime itself, through `Pipeline.generate`, as any program uses it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.session import GraphSession
from stages import PROMPT, SEED, Workload
from timeline import Timeline


def draw(workload: Workload, timeline: Timeline) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the latents and the pictures, 8-bit."""
    timeline.mark("imports")
    _mark_runs(timeline)
    pipeline = workload.load_pipeline()
    timeline.mark("load")
    result = pipeline.generate(
        PROMPT,
        width=workload.width,
        height=workload.height,
        steps=workload.steps,
        seed=SEED,
        count=workload.count,
        on_step=lambda _step, _total, _latents: timeline.mark("step ends"),
    )
    pictures = np.stack([np.asarray(image) for image in result.images])
    timeline.mark("picture")
    return result.latents, pictures


def _mark_runs(timeline: Timeline) -> None:
    """Mark when each run of a graph begins and ends, which the pipeline does not tell apart from its loading."""
    run = GraphSession.run

    def marked(session: GraphSession, **inputs: NDArray[Any]) -> NDArray[np.float32]:
        timeline.mark(f"{session.name} begins")
        output = run(session, **inputs)
        timeline.mark(f"{session.name} ends")
        return output

    GraphSession.run = marked  # type: ignore[method-assign, assignment] # in this process alone, which draws once
