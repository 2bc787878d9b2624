"""The runtime itself, as any program uses it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pocket_diffusion import Pipeline
from pocket_diffusion.model.components import Arrays, Network
from stages import Workload
from timeline import Timeline


class Marked:
    """A network that marks when it begins and ends, which the pipeline does not tell apart from its loading."""

    def __init__(self, network: Network, role: str, timeline: Timeline) -> None:
        self._network, self._role, self._timeline = network, role, timeline

    def run(self, *more: str, **inputs: NDArray[Any]) -> Arrays:
        """Run it between two marks."""
        self._timeline.mark(f"{self._role} begins")
        outputs = self._network.run(*more, **inputs)
        self._timeline.mark(f"{self._role} ends")
        return outputs

    def close(self) -> None:
        """Give the memory back."""
        self._network.close()


class Loaded(NamedTuple):
    """A pipeline, ready to draw."""

    pipeline: Pipeline
    precision: Callable[[], str]
    """What its U-Net multiplies in; asked once it has run."""


def load(workload: Workload, timeline: Timeline) -> Loaded:
    """Return a pipeline whose networks are watched."""
    timeline.mark("imports")
    pipeline = workload.load_pipeline_with(lambda role: Marked(pipeline.components.open_session(role), role, timeline))
    timeline.mark("load")
    return Loaded(pipeline, lambda: "8-bit, rest f32" if "unet" in pipeline.components.arithmetic.int8 else "f32")
