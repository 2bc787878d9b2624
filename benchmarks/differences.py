"""How far one way of computing a bundle's networks is from another, on what passes through them while they draw."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import COMPONENTS
from pocket_diffusion.drawing.images import to_array
from pocket_diffusion.model.components import Arrays, Network
from report import psnr, relative_error
from stages import Workload, draw

EVALUATIONS = 5
"""So many of a network's are compared: the first, the last, and others at equal distances between these."""


@dataclass(frozen=True)
class Evaluation:
    """What went into a network once, and what came out."""

    inputs: dict[str, NDArray[Any]]
    outputs: Arrays


@dataclass(frozen=True)
class Recording:
    """A picture, and what passed through the networks while it was drawn and then encoded."""

    picture: Image.Image
    evaluations: dict[str, list[Evaluation]]
    """By role, in the order in which they happened."""


class _Recorded:
    """A network that keeps what passes through it."""

    def __init__(self, network: Network, evaluations: list[Evaluation]) -> None:
        self._network, self._evaluations = network, evaluations

    def run(self, *more: str, **inputs: NDArray[Any]) -> Arrays:
        outputs = self._network.run(*more, **inputs)
        self._evaluations.append(Evaluation(inputs, outputs))
        return outputs

    def close(self) -> None:
        self._network.close()


def record(workload: Workload) -> Recording:
    """Draw the picture that is measured and encode it."""
    evaluations: dict[str, list[Evaluation]] = {role: [] for role in COMPONENTS}
    pipeline = workload.load_pipeline_with(
        lambda role: _Recorded(pipeline.components.open_session(role), evaluations[role])
    )
    with pipeline:
        (picture,) = draw(pipeline, workload).images
        pipeline.encode_image(to_array(picture, workload.width, workload.height))
    return Recording(picture, evaluations)


def compare_networks(recording: Recording, other: Pipeline, roles: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Run another pipeline's networks on what was recorded, and return by role how far their outputs are off.

    Errors are relative, by the Euclidean norm; there is one for each evaluation, in the order of the drawing. The PSNR
    is the median, and its peak is the output's range (largest less smallest number).

    Raises:
        InvalidRequestError: the other networks take other inputs.

    """
    figures = {}
    for role in roles:
        pairs = [
            (_output(role, one.outputs), _output(role, other.components.run(role, **one.inputs)))
            for one in _some(recording.evaluations[role])
        ]
        errors = [relative_error(*pair) for pair in pairs]
        figures[role] = {
            "relative_error": statistics.median(errors),
            "largest_error": max(errors),
            "errors": errors,
            "psnr_db": statistics.median(psnr(exact, found, float(np.ptp(exact))) for exact, found in pairs),
        }
    return figures


def compare_pictures(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> list[float]:
    """Return the PSNR in dB of each pair; the peak is 255."""
    return [psnr(np.asarray(one), np.asarray(other), peak=255) for one, other in zip(pictures, others, strict=True)]


def _some(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    places = np.linspace(0, len(evaluations) - 1, min(EVALUATIONS, len(evaluations)))
    return [evaluations[round(place)] for place in places]


def _output(role: str, outputs: Arrays) -> NDArray[np.float32]:
    """Return what a network is for: its first output; of the encoder's moments, the mean."""
    output = next(iter(outputs.values()))
    return np.split(output, 2, axis=1)[0] if role == "vae_encoder" else output
