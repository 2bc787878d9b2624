"""PyTorch against ONNX Runtime: the same inputs, at sizes that were not traced."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket_diffusion.bundle import Component, ParityFigure
from pocket_diffusion.errors import ParityError
from pocket_diffusion.machine.session import GraphSession
from pocket_export.parts import Part

# Odd sizes in latents, so that every rounding on the way down is tried; batches that were not traced either.
_SIZES = (
    {"batch": 3, "contexts": 3, "height": 15, "width": 20, "tokens": 77},
    {"batch": 1, "contexts": 2, "height": 24, "width": 17, "tokens": 154},
)


def measure_parity(part: Part, folder: Path, component: Component, tolerance: float) -> tuple[ParityFigure, ...]:
    """Compare all outputs of a written graph with its module's, in float32 with the source's weights.

    Returns:
        A figure for each of two sizes: the errors are those of the output that is furthest off.

    Raises:
        ParityError: the relative error is above the tolerance.

    """
    session = GraphSession(folder, part.name, component, "cpu")
    return tuple(_measure(part, session, inputs, tolerance) for inputs in parity_inputs(part))


def parity_inputs(part: Part) -> list[dict[str, NDArray[Any]]]:
    """Return what a part is compared on: inputs by name, at each of the sizes."""
    examples = [part.example(sizes, seed) for seed, sizes in enumerate(_SIZES)]
    return [{spec.name: x.numpy() for spec, x in zip(part.inputs, one, strict=True)} for one in examples]


def _measure(part: Part, session: GraphSession, named: dict[str, NDArray[Any]], tolerance: float) -> ParityFigure:
    inputs = tuple(torch.from_numpy(named[spec.name]) for spec in part.inputs)
    with torch.inference_mode():
        results = part.module(*in_one_batch(inputs))
    theirs = [results] if isinstance(results, Tensor) else results
    ours = session.run(**named)
    errors = [_errors(ours[spec.name], x.numpy()) for spec, x in zip(part.outputs, theirs, strict=True)]
    relative, largest = np.max(errors, axis=0)  # NaN where any of them is
    figure = ParityFigure(
        inputs={name: x.shape for name, x in named.items()},
        relative_error=float(relative),
        max_abs_error=float(largest),
        tolerance=tolerance,
    )
    if not figure.relative_error <= tolerance:  # also where it is NaN
        raise ParityError(
            f"the graph of {part.name} is off by {figure.relative_error:.1e} relative to PyTorch, more than the "
            f"{tolerance:.0e} allowed; no bundle was written"
        )
    return figure


def _errors(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> tuple[float, float]:
    """Return the relative and the largest absolute error of one output."""
    difference = ours - theirs
    return float(np.linalg.norm(difference) / np.linalg.norm(theirs)), float(np.abs(difference).max())


def in_one_batch(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Repeat the latents for each context, as the module wants it."""
    batch = max(len(x) for x in inputs)
    return tuple(x.expand(batch, *x.shape[1:]) for x in inputs)
