"""How much memory a component takes on a CPU, measured in processes of their own.

    python -m pocket_export.memory FOLDER NAME COMPONENT SHAPES [expand]

runs a component once at these shapes, with expanded weights if so asked, and prints the bytes; COMPONENT and SHAPES are
JSON.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pocket_diffusion.bundle import Component, ComponentMemory
from pocket_diffusion.errors import ExportError
from pocket_diffusion.machine.free_memory import own_anonymous_memory
from pocket_diffusion.machine.session import GraphSession

if TYPE_CHECKING:  # without PyTorch, the processes start in a tenth of the time
    from pocket_export.parts import Part

_SMALL = {"height": 8, "width": 8, "contexts": 1}
"""So small that the weights on their way through Casts are all that counts. Sides in latents."""
_LARGE = ({"height": 48, "width": 64, "contexts": 4}, {"height": 96, "width": 64, "contexts": 4})
"""So large that the activations outweigh those; between the two, the growth is measured.

The VAE takes no larger pictures at once (`MemoryMode.whole`).
"""
_STEPS = 1.1
"""How much more may be taken between the two: ONNX Runtime's arena grows in steps."""


def measure_memory(
    part: "Part", folder: Path, component: Component, *, multiplies_in_8_bits: bool = False
) -> ComponentMemory | None:
    """Run a written component at a small size and two large ones, and draw a line through what the large ones take.

    Expanded weights are float32, but for products of 8-bit numbers: ONNX Runtime packs these as they are.

    Returns:
        None where the system does not tell how much memory a process has.

    Raises:
        ExportError: a run failed.

    """
    if not own_anonymous_memory():
        return None
    least = _measure_apart(part, folder, component, _SMALL)
    base = per_pixel = 0
    if any("height" in spec.shape for spec in part.inputs):
        (less, more), (fewer, many) = zip(
            *((_measure_apart(part, folder, component, sizes), _count_pixels(part, sizes)) for sizes in _LARGE),
            strict=True,
        )
        growth = max(0, more - less) / (many - fewer)
        base = max(0, int(more - growth * many))
        per_pixel = int(growth * _STEPS)
    packed = 4 * part.parameters  # float32
    if multiplies_in_8_bits:
        packed = max(0, _measure_apart(part, folder, component, _SMALL, expand=True) - least)
    return ComponentMemory(least=least, base=base, per_pixel=per_pixel, expanded_weights=packed)


def _count_pixels(part: "Part", sizes: dict[str, int]) -> int:
    """Return the pixels of all samples."""
    samples = sizes["contexts"] if any("contexts" in spec.shape for spec in part.inputs) else 1
    return samples * sizes["height"] * sizes["width"] * part.pixels_per_latent**2


def _measure_apart(
    part: "Part", folder: Path, component: Component, sizes: dict[str, int], *, expand: bool = False
) -> int:
    sizes = dict.fromkeys(part.usual_sizes, 1) | {"tokens": part.usual_sizes["tokens"]} | sizes
    sizes |= {side: sizes[side] * part.pixels_per_size for side in ("height", "width")}
    shapes = {spec.name: [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape] for spec in part.inputs}
    arguments = [str(folder), part.name, msgspec.json.encode(component).decode(), json.dumps(shapes)]
    arguments += ["expand"] if expand else []
    # Without -P, Python would import what lies in the working folder, which may be a stranger's checkpoint.
    command = [sys.executable, "-P", "-m", "pocket_export.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ExportError(f"{part.name} could not be run to measure its memory: {why}")
    return int(done.stdout)


def main(folder: str, name: str, component: str, shapes: str, expand: str = "") -> None:
    """Run a component and print what it takes: ONNX Runtime keeps what it needed at most."""
    before = own_anonymous_memory()
    spec = msgspec.json.decode(component, type=Component)
    session = GraphSession(Path(folder), name, spec, "cpu", expand_weights=bool(expand))
    session.run(**{name: np.zeros(shape, np.int64) for name, shape in json.loads(shapes).items()})
    sys.stdout.write(str(own_anonymous_memory() - before))


if __name__ == "__main__":
    main(*sys.argv[1:])
