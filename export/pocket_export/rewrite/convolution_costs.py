"""Which form of a 3x3 convolution is cheapest: a table of measurements, made by benchmarks/convolution_forms.py."""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("convolution_costs.json")


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution of stride 1, as far as its cost depends on it."""

    channels_in: int
    channels_out: int
    pixels: int
    """Of all pictures of a batch."""

    def distance(self, other: "Convolution") -> float:
        """How unlike two are: the product of the ratios of their sizes, as a logarithm."""
        return sum(
            abs(math.log(mine / theirs))
            for mine, theirs in (
                (self.channels_in, other.channels_in),
                (self.channels_out, other.channels_out),
                (self.pixels, other.pixels),
            )
        )


def cheapest_tile(convolution: Convolution) -> int | None:
    """Return the m of Winograd's F(m x m, 3 x 3), or None where the direct form is cheapest.

    Decided by the figures of the most similar convolution that was measured.
    """
    seconds = min(_measurements(), key=lambda measured: convolution.distance(measured[0]))[1]
    return min(seconds, key=lambda m: seconds[m])


@functools.cache
def _measurements() -> list[tuple[Convolution, dict[int | None, float]]]:
    return [
        (
            Convolution(row["channels_in"], row["channels_out"], row["pixels"]),
            {None: row["direct"], 2: row["winograd_2"], 4: row["winograd_4"]},
        )
        for row in json.loads(TABLE.read_text())["seconds"]
    ]
