"""How much memory a component takes on a CPU, measured in processes of their own.

    python -m pocket_export.memory FOLDER NAME COMPONENT SHAPES

runs a component once at these shapes and prints the bytes; the last two are JSON.
"""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from pocket_diffusion.bundle import Component, ComponentMemory
from pocket_diffusion.errors import ExportError
from pocket_diffusion.free_memory import own_anonymous_memory
from pocket_diffusion.session import GraphSession
from pocket_export.parts import Part

_SIDES = (32, 48)
"""Of the two pictures between which the growth is measured, in latents."""


def measure_memory(part: Part, folder: Path, component: Component) -> ComponentMemory | None:
    """Run a written component at two sizes, one sample each, and draw a line through what that takes.

    Returns:
        None where the system does not tell how much memory a process has.

    Raises:
        ExportError: a run failed.

    """
    if not own_anonymous_memory():
        return None
    small, large = (_measure_apart(part, folder, component, side) for side in _SIDES)
    small_pixels, large_pixels = ((side * part.pixels_per_latent) ** 2 for side in _SIDES)
    grows = any("height" in spec.shape for spec in part.inputs)
    per_pixel = max(0, large - small) // (large_pixels - small_pixels) if grows else 0
    return ComponentMemory(
        base=max(0, large - per_pixel * large_pixels), per_pixel=per_pixel, expanded_weights=4 * part.parameters
    )


def _measure_apart(part: Part, folder: Path, component: Component, side: int) -> int:
    sizes = dict.fromkeys(part.usual_sizes, 1) | {"tokens": part.usual_sizes["tokens"]}
    sizes |= dict.fromkeys(("height", "width"), side * part.pixels_per_size)
    shapes = {spec.name: [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape] for spec in part.inputs}
    arguments = [str(folder), part.name, msgspec.json.encode(component).decode(), json.dumps(shapes)]
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "pocket_export.memory", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ExportError(f"{part.name} could not be run to measure its memory: {why}")
    return int(done.stdout)


def main(folder: str, name: str, component: str, shapes: str) -> None:
    """Run a component and print what it takes: ONNX Runtime keeps what it needed at most."""
    before = own_anonymous_memory()
    session = GraphSession(Path(folder), name, msgspec.json.decode(component, type=Component), "cpu")
    session.run(**{name: np.zeros(shape, np.int64) for name, shape in json.loads(shapes).items()})
    sys.stdout.write(str(own_anonymous_memory() - before))


if __name__ == "__main__":
    main(*sys.argv[1:])
