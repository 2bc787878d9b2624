"""Draw with one system in this process, from nothing, as much as there is time for.

    python benchmarks/gpu_draw.py TURN

gpu.py runs this for every turn; TURN is its JSON.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu import REFERENCE, Turn
from timeline import Timeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WARM_UP_STEPS = 2
MODULES = {
    "ours": "ours_gpu",
    "onnxruntime": "onnxruntime_gpu",
    "diffusers": "diffusers_gpu",
    "diffusers-compiled": "diffusers_gpu",
    REFERENCE: "diffusers_gpu",
}
"""The files in `systems/` that draw. Each has `load(turn, timeline)`."""

Draw = Callable[[int, int], "NDArray[np.uint8]"]
"""Draws so many pictures at once, in so many steps: `[count, height, width, 3]`, when they are on the host. It marks
when the U-Net begins and ends."""


def draw(turn: Turn) -> None:
    """Draw the cells of a turn, each once after a warm-up, and write what they took."""
    import numpy as np

    timeline = Timeline(turn.started)
    run: Draw = importlib.import_module(f"systems.{MODULES[turn.system]}").load(turn, timeline)
    figures: list[dict[str, Any]] = []
    warm: set[int] = set()
    for count, steps in turn.cells:
        if figures and time.monotonic() > turn.until:
            break
        first_picture = None
        if not figures:  # the reference's time is of no interest
            pictures = run(count, steps)
            first_picture = time.monotonic() - turn.started
            np.save(Path(turn.output, "pictures.npy"), pictures)
        elif count not in warm:
            run(count, WARM_UP_STEPS)
        warm.add(count)
        begins = time.monotonic()
        if turn.system != REFERENCE:
            timeline.marks.clear()
            run(count, steps)
        ends = time.monotonic()
        marks = (timeline.marks["unet begins"], timeline.marks["unet ends"])
        figures.append(
            {
                "count": count,
                "steps": steps,
                "seconds": ends - begins if turn.system != REFERENCE else first_picture,
                "first_picture": first_picture,
                "begins": begins,
                "ends": ends,
                "evaluations": list(zip(*marks, strict=True)),
            }
        )
        Path(turn.output, "figures.json").write_text(json.dumps(figures))


def main() -> None:
    """Run from `gpu.py`'s command line."""
    draw(Turn(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
