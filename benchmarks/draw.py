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

_CHUNK = 2**22  # bytes


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a drawing process is told besides the workload."""

    started: float
    """When it was started, see `Timeline`."""
    files: str | None
    """The folder with a peer's files; `None` for the runtime."""
    arrays: str | None
    """The .npz file to write latents `[count, 4, h/8, w/8]` and pictures `[count, h, w, 3]`, 8-bit, to."""


def draw_fresh(
    name: str, workload: "Workload", *, files: Path | None = None, arrays: Path | None = None
) -> dict[str, Any]:
    """Draw in a fresh process and return `Timeline.figures` and the peaks of memory; see `Order` for the options.

    All files are read before, so that the disk is not part of what is measured.

    Raises:
        StageError: the process failed.

    """
    read_ahead(files or workload.folder)
    order = Order(
        started=time.monotonic(),
        files=None if files is None else str(files),
        arrays=None if arrays is None else str(arrays),
    )
    return run_script("draw.py", name, workload.as_json(), json.dumps(asdict(order)))


def read_ahead(folder: Path) -> None:
    """Bring a folder's files into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(_CHUNK):
                    pass


def draw(name: str, workload: "Workload", order: Order, timeline: Timeline) -> None:
    """Draw with the system of that name, in this process."""
    module = importlib.import_module(f"systems.{SYSTEMS[name].module}")
    if order.files is None:
        latents, pictures = module.draw(workload, timeline)
    else:
        from systems.peer import draw_with

        latents, pictures = draw_with(module.open_network, Path(order.files), workload, timeline)
    if order.arrays is not None:
        import numpy as np

        np.savez(order.arrays, latents=latents, pictures=pictures)


def main() -> None:
    """Run from `draw_fresh`'s command line."""
    order = Order(**json.loads(sys.argv[3]))
    timeline = Timeline(order.started)
    timeline.mark("python")
    with AnonymousMemoryWatch() as anonymous:
        from pocket_diffusion import PocketDiffusionError
        from stages import Workload

        try:
            draw(sys.argv[1], Workload(**json.loads(sys.argv[2])), order, timeline)
        except PocketDiffusionError as error:
            raise SystemExit(str(error)) from None
    json.dump({**timeline.figures(), **peaks(anonymous)}, sys.stdout)


if __name__ == "__main__":
    main()
