"""Where the things of a scene go, decided before anything is painted so that sun, trees and river can keep clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pocket_models.landscapes.painting.canvas import SIZE
from pocket_models.landscapes.scenes import Scene

_FAR_SCALE = 0.5
_SCALES = {"one": 1.0, "two": 0.82, "three": 0.66}
_MIDDLES = {"left": (28.0,), "middle": (64.0,), "right": (100.0,), "two": (36.0, 92.0), "three": (22.0, 64.0, 106.0)}


@dataclass(frozen=True)
class Spot:
    """One thing's place across the picture and its size; what is ``far`` is half as big and stands further up."""

    x: float
    scale: float
    far: bool = False


def draw_spots(scene: Scene, generator: np.random.Generator) -> list[Spot]:
    """Draw a spot for each thing of the scene; none where there is no thing. A flock of birds is one thing."""
    if scene.thing is None:
        return []
    if scene.place == "far":
        return [Spot(float(generator.uniform(24, 104)), _FAR_SCALE, far=True)]
    if scene.thing == "birds":
        return [Spot(float(generator.uniform(36, 92)), 1.0)]
    scale = _SCALES[scene.count or "one"] * float(generator.uniform(0.95, 1.05))
    middles = _MIDDLES[scene.place or scene.count or "middle"]
    return [Spot(middle + float(generator.uniform(-5, 5)), scale) for middle in middles]


def clear_x(spots: Sequence[Spot], generator: np.random.Generator, low: float = 22, high: float = 106) -> float:
    """Draw an x between ``low`` and ``high`` that keeps as far from all spots as can be."""
    candidates = generator.uniform(low, high, 12)
    if not spots:
        return float(candidates[0])
    distance = np.abs(candidates[:, None] - np.array([spot.x for spot in spots])).min(axis=1)
    # Beyond a thing's own width one place is as good as another.
    return float(candidates[int(np.argmax(np.minimum(distance, 30)))])


def scattered(generator: np.random.Generator, count: int, top: float, bottom: float) -> list[tuple[float, float]]:
    """Draw points spread evenly over the rows from ``top`` to ``bottom``, none close to another."""
    columns = max(1, round((count * SIZE / (bottom - top)) ** 0.5))
    rows = -(-count // columns)
    cells = generator.permutation(columns * rows)[:count]
    jitter = generator.uniform(0.15, 0.85, (count, 2))
    return [
        (
            float((cell % columns + dx) * SIZE / columns),
            float(top + (cell // columns + dy) * (bottom - top) / rows),
        )
        for cell, (dx, dy) in zip(cells.tolist(), jitter.tolist(), strict=True)
    ]
