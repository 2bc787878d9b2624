"""Draw one picture with one system in this process, from nothing, and print what it took as JSON.

    python benchmarks/draw.py SYSTEM WORKLOAD ORDER

peers.py, scaling.py and cold_start.py run this for every measurement. Nothing of any system, NumPy included, is
imported before the memory watch begins.
"""

import importlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fresh_process import run_script
from peak_memory import AnonymousMemoryWatch, peaks
from systems import SYSTEMS
from timeline import Timeline

if TYPE_CHECKING:
    from stages import Workload
    from systems.ours import Loaded

_CHUNK = 2**22  # bytes


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a drawing process is told besides the workload."""

    started: float
    """When it was started, see `Timeline`."""
    files: str | None
    """The folder with a peer's files; `None` for the runtime."""
    arrays: str | None
    """The folder to write SYSTEM.npz to: latents `[count, 4, h/8, w/8]`, pictures `[count, h, w, 3]`, 8-bit, and what
    the networks make of inputs.npz there (`stages.evaluate`)."""
    again: bool = False
    """Draw a second time, with all that the first has loaded."""


def draw_fresh(
    name: str,
    workload: "Workload",
    *,
    files: Path | None = None,
    arrays: Path | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Draw in a fresh process; see `Order` for the options.

    Returns `Timeline.figures`, the peaks of memory, and `precision`, which names what the U-Net multiplied in; and
    `again`, the seconds of the second drawing. All files are read before, so that the disk is not part of what is
    measured.

    Raises:
        StageError: the process failed.

    """
    read_ahead(files or workload.folder)
    order = Order(
        started=time.monotonic(),
        files=None if files is None else str(files),
        arrays=None if arrays is None else str(arrays),
        again=again,
    )
    return run_script("draw.py", name, workload.as_json(), json.dumps(asdict(order)))


def read_ahead(folder: Path) -> None:
    """Bring a folder's files into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(_CHUNK):
                    pass


def load(name: str, workload: "Workload", order: Order, timeline: Timeline) -> "Loaded":
    """Return a pipeline around the networks of the system of that name, in this process."""
    module = importlib.import_module(f"systems.{SYSTEMS[name].module}")
    if order.files is None:
        loaded: Loaded = module.load(workload, timeline)
        return loaded
    from systems.peer import load_with

    return load_with(module.open_network, Path(order.files), workload, timeline)


def draw(name: str, workload: str, order: Order) -> dict[str, Any]:
    """Draw in this process with the system of that name; return what `draw_fresh` does."""
    timeline = Timeline(order.started)
    timeline.mark("python")
    with AnonymousMemoryWatch() as anonymous:
        from stages import Workload, draw_picture, evaluate

        settled = Workload(**json.loads(workload))
        loaded = load(name, settled, order, timeline)
        latents, pictures = draw_picture(loaded.pipeline, settled, timeline)
        figures = timeline.figures()
        if order.again:
            started = time.monotonic()
            draw_picture(loaded.pipeline, settled, timeline)
            figures["again"] = time.monotonic() - started
    figures |= {**peaks(anonymous), "precision": loaded.precision()}
    if order.arrays is not None:
        import numpy as np

        with np.load(Path(order.arrays, "inputs.npz")) as inputs:
            outputs = evaluate(loaded.pipeline, **inputs)
        np.savez(Path(order.arrays, f"{name}.npz"), latents=latents, pictures=pictures, **outputs)
    return figures


def main() -> None:
    """Run from `draw_fresh`'s command line."""
    try:
        figures = draw(sys.argv[1], sys.argv[2], Order(**json.loads(sys.argv[3])))
    except Exception as error:
        from pocket_diffusion import PocketDiffusionError  # not before the watch begins

        if not isinstance(error, PocketDiffusionError):
            raise
        raise SystemExit(str(error)) from None
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
