"""What drawing gives: a step at a time, and in the end pictures."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion.drawing.adapters import ModelChanges
from pocket_diffusion.drawing.images import file_bytes, make_folder, names_picture, numbered, save_picture, side_by_side
from pocket_diffusion.drawing.metadata import parameters_text, settings
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.errors import Cancelled
from pocket_diffusion.machine.turns import Cancellation, Turns
from pocket_diffusion.model.components import Components
from pocket_diffusion.order import Order

Latents = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """Where a drawing stands after a step."""

    number: int
    """From 1."""
    total: int
    latents: Latents
    """`[count, 4, height/8, width/8]`, so far, scaled as the U-Net takes them."""
    predicted: Latents
    """Of the same shape: the clean latents (x_0) that the model sees in them."""
    _look: Callable[[Latents], Image.Image] = field(repr=False)

    def preview(self, index: int = 0) -> Image.Image:
        """Return roughly what picture `index` will look like: small, a pixel for eight by eight without a tiny VAE."""
        return self._look(self.predicted[index : index + 1])


class Stopwatch:
    """Seconds by stage, and in all; the caller's own time between steps is in none."""

    def __init__(self, components: Components) -> None:
        self.seconds = dict.fromkeys(("load", "encode", "denoise", "decode", "total"), 0.0)
        self._components = components
        self._loading = components.seconds_loading

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what passes meanwhile to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            self.seconds[stage] += passed
            self.seconds["total"] += passed
            self.seconds["load"] = self._components.seconds_loading - self._loading

    def __str__(self) -> str:
        """Return the seconds, for a log."""
        return ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in self.seconds.items())


@dataclass(frozen=True, repr=False)
class Result:
    """Pictures, and how they came to be."""

    images: list[Image.Image]
    seeds: list[int]
    """One a picture: drawing again with it gives the same picture."""
    latents: Latents
    """`[pictures, 4, height/8, width/8]`, as they went into the VAE decoder."""
    timings: dict[str, float]
    """Seconds by stage: `encode`, `denoise`, `decode`, `total`; `load` is also part of the first to need a graph."""
    drawings: tuple[Drawing, ...]
    """What was drawn, one a prompt; each gave its `count` of pictures."""
    model: str
    """The bundle's name."""
    arithmetic: str
    """What the networks computed in: see `Pipeline.arithmetic`."""
    changes: tuple[ModelChanges, ...]
    """What each of the drawings was drawn with beyond the bundle: LoRAs and embeddings."""

    @classmethod
    def joined(cls, results: Sequence["Result"]) -> "Result":
        """Return the results of several prompts as one."""
        return cls(
            images=[image for result in results for image in result.images],
            seeds=[seed for result in results for seed in result.seeds],
            latents=np.concatenate([result.latents for result in results]),
            timings={stage: sum(result.timings[stage] for result in results) for stage in results[0].timings},
            drawings=tuple(drawing for result in results for drawing in result.drawings),
            model=results[0].model,
            arithmetic=results[0].arithmetic,
            changes=tuple(changes for result in results for changes in result.changes),
        )

    def order(self, index: int = 0) -> Order:
        """Return the order that draws picture `index` again; pictures that it started from are not in it."""
        drawing, i, _ = self._drawing(index)
        return drawing.order(i)

    def settings(self, index: int = 0) -> dict[str, Any]:
        """Return how picture `index` was made, as its file tells: an order's fields, and what drew it."""
        return settings(*self._facts(index))

    def png(self, index: int = 0) -> bytes:
        """Return the content of the PNG that `save` writes of picture `index`."""
        return file_bytes(self.images[index], "PNG", parameters_text(*self._facts(index)), self.settings(index))

    def save(self, path: str | os.PathLike[str], index: int | None = None) -> list[Path]:
        """Write pictures, each whole or not at all; each carries how it was made (see `save_picture`).

        Args:
            path: the file of a single picture. For several, a folder, in which they are named by their seeds and those
                of their variations, or a file's name, which they get with a number each: `lake.png` gives
                `lake-1.png`, `lake-2.png`, ….
            index: the only picture to be written; without it, all are.

        Returns:
            The files.

        Raises:
            InvalidRequestError: the file's ending names no known format.
            OutputError: a file or the folder cannot be written.

        """
        path = Path(path)
        if index is None and len(self.images) == 1:
            index = 0
        if index is not None:
            self._save(path, index)
            return [path]
        if names_picture(path):
            paths = numbered(path, len(self.images))
        else:
            make_folder(path)
            paths = [path / f"{self._name(i)}.png" for i in range(len(self.seeds))]
        for i, each in enumerate(paths):
            self._save(each, i)
        return paths

    def __repr__(self) -> str:
        """Tell what there is, in a line."""
        width, height = self.images[0].size
        s = "" if len(self.images) == 1 else "s"
        seeds = ", ".join(map(str, self.seeds[:4])) + (", …" if len(self.seeds) > 4 else "")
        seconds = self.timings["total"]
        return f"<Result: {len(self.images)} picture{s} of {width}x{height}, seed{s} {seeds}, {seconds:.1f} s>"

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows: the picture, or all of them side by side."""
        file = BytesIO()
        side_by_side(self.images).save(file, "PNG")
        return file.getvalue()

    def _save(self, path: Path, index: int) -> None:
        save_picture(self.images[index], path, parameters_text(*self._facts(index)), self.settings(index))

    def _name(self, index: int) -> str:
        """Return the seed of picture `index`, with that of a variation."""
        drawing, i, _ = self._drawing(index)
        other = drawing.variation_seeds[i]
        return str(self.seeds[index]) if other is None else f"{self.seeds[index]}-{other}"

    def _facts(self, index: int) -> tuple[Drawing, int, str, str, ModelChanges]:
        drawing, i, changes = self._drawing(index)
        return drawing, i, self.model, self.arithmetic, changes

    def _drawing(self, index: int) -> tuple[Drawing, int, ModelChanges]:
        """Return what picture `index` was drawn from, which of its pictures it is, and what the model had."""
        drawn = zip(self.drawings, self.changes, strict=True)
        places = [(drawing, i, changes) for drawing, changes in drawn for i in range(drawing.count)]
        return places[index]


class Steps(Iterator[Step]):
    """A drawing, a step at a time. Between its steps, others may have the networks."""

    def __init__(
        self, walk: Generator[Step, None, Result], turns: Turns, cancellation: Cancellation | None = None
    ) -> None:
        self._walk = walk
        self._turns = turns
        self._cancellation = cancellation
        self._result: Result | None = None
        self._fault: BaseException = Cancelled("the drawing was closed before its last step; there is no picture")

    def __next__(self) -> Step:
        """Take the next step; after the last, decode the pictures."""
        try:
            with self._turns.turn(self._cancellation):
                return next(self._walk)
        except StopIteration as end:
            self._result = self._result or end.value
            raise StopIteration from None
        except BaseException as fault:
            self._fault = fault
            raise

    @property
    def result(self) -> Result:
        """The pictures: those steps that are left are taken first."""
        for _ in self:
            pass
        if self._result is None:
            raise self._fault
        return self._result

    def close(self) -> None:
        """Stop here, and give back what a memory mode does not keep."""
        with self._turns.turn(self._cancellation):
            self._walk.close()
