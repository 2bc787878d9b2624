"""Who draws the rows of a batch: a pipeline, and what holds for all rows. It can be sent to another process."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pocket_diffusion.batch.row import Row
from pocket_diffusion.errors import InferenceError, InvalidRequestError
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import Pipeline


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a row."""

    row: Row
    picture: bytes = b""
    """A PNG with how it was made; empty where there is an error."""
    settings: dict[str, Any] = {}
    """How it was made, as the PNG tells."""
    seconds: float = 0.0
    """That it took, without loading the model."""
    warnings: list[str] = []
    """What of the row could not be done as one would expect."""
    error: str | None = None
    """Why there is no picture, if so."""


@dataclass(frozen=True)
class Studio:
    """What an artist needs, as plain values."""

    model: Path | None
    """The bundle; None is the embedded one."""
    usual: Order
    """What holds where a row says nothing."""
    seed: int
    """Of the whole batch."""
    folder: Path
    """What paths in rows are relative to."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Further options of `Pipeline.load`."""

    def order(self, row: Row) -> Order:
        """Return what a row asks for; raises what `Row.order` raises."""
        return row.order(self.usual, self.seed, self.folder)

    def artist(self) -> "Artist":
        """Load the pipeline; raises what `Pipeline.load` raises."""
        return Artist(self, Pipeline.load(self.model, **self.machine))


class Artist:
    """Draws one row after another."""

    def __init__(self, studio: Studio, pipeline: Pipeline) -> None:
        self._studio = studio
        self.pipeline = pipeline

    def draw(self, row: Row) -> Drawn:
        """Draw a row; what is wrong with it is in the answer.

        Raises:
            PocketDiffusionError: something is wrong with the model or the machine, and would be with every row.

        """
        try:
            order = self._studio.order(row)
        except InvalidRequestError as error:
            return Drawn(row=row, error=str(error))
        return self.draw_order(row, order)

    def draw_order(self, row: Row, order: Order) -> Drawn:
        """Draw what a row asks for; what is wrong with it is in the answer.

        Raises:
            PocketDiffusionError: as `draw`.

        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = self.pipeline.steps(order).result
            except (InvalidRequestError, InferenceError) as error:
                return Drawn(row=row, error=str(error))
        return Drawn(
            row=row,
            picture=result.png(0),
            settings=result.settings(0),
            seconds=result.timings["total"] - result.timings["load"],
            warnings=[str(each.message) for each in caught],
        )
