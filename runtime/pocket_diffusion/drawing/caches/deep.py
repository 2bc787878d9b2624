"""DeepCache (Ma et al. 2023): between full evaluations, the U-Net's last layer alone is computed anew."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from pocket_diffusion.drawing.caches.cache import Array, Rhythm, RhythmicCache, Run


@dataclass
class DeepFeatures:
    """What the U-Net's deep layers make of one run's inputs."""

    kept: Array | None = None
    """None until a run has put them here; later runs are made with them, in place of those layers."""


class DeepCache(RhythmicCache):
    """Keeps the deep features of each run of the last full evaluation."""

    def __init__(self, rhythm: Rhythm) -> None:
        """Start with nothing kept."""
        super().__init__(rhythm)
        self._features: list[DeepFeatures] = []
        """One for each run of an evaluation. Under the same contexts, these come in the same order."""
        self._runs = 0

    def x_0(self, x: Array, sigma: float, under: Hashable, evaluate: Callable[[], Array]) -> Array:
        """See `Cache`."""
        if self.is_due(under):
            self._features.clear()
        self._runs = 0
        return evaluate()

    def run(self, run: Run, *inputs: Any) -> Array:  # noqa: ANN401 - the U-Net's
        """See `Cache`; `run` takes `DeepFeatures` as well."""
        if self._runs == len(self._features):
            self._features.append(DeepFeatures())
        self._runs += 1
        return run(*inputs, self._features[self._runs - 1])
