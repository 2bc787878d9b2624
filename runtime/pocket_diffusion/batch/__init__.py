"""Many pictures from a file of prompts: rows → orders → pictures → a folder that says what became of each.

from pocket_diffusion.batch import Batch

if __name__ == "__main__":  # which the processes that draw import again
    with Batch("prompts.csv", "pictures") as batch:
        for record in batch.draw():
            print(record.row, record.file, record.error)
        batch.finish()
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from pocket_diffusion.addon import ADDON_NAME, TINY_VAE
from pocket_diffusion.batch.artist import Studio
from pocket_diffusion.batch.contact_sheet import write_contact_sheet
from pocket_diffusion.batch.fleet import Fleet, draw_on_ray
from pocket_diffusion.batch.folder import BatchFolder, Identity, Record, identity_in
from pocket_diffusion.batch.prompts import PROMPT, RowsLeft, read_prompts
from pocket_diffusion.batch.row import Row
from pocket_diffusion.batch.table import write_table
from pocket_diffusion.batch.workers import draw_here, draw_in_processes, fair_share
from pocket_diffusion.bundle import MANIFEST_NAME, sha256_of
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.version import __version__

__all__ = ["Batch", "Record"]


class Batch:
    """A file of prompts, and the folder that its pictures are written to. One that was stopped goes on."""

    def __init__(
        self,
        prompts: str | PathLike[str],
        output: str | PathLike[str],
        *,
        model: str | PathLike[str] | None = None,
        usual: Order | None = None,
        seed: int = 0,
        column: str = PROMPT,
        processes: int | None = None,
        threads: int | None = None,
        memory: str = AUTO,
        ray: str | None = None,
        ray_copy: bool = False,
        ray_wait: float = 0.0,
        **machine: Any,  # noqa: ANN401 - as `Pipeline.load` takes them
    ) -> None:
        """Read the file once, and open the bundle.

        Args:
            prompts: see `read_prompts`; paths of pictures in it are relative to its folder, and must not leave it.
            output: a new folder, or that of the same batch.
            model: a bundle; by default the embedded one.
            usual: what holds where a row says nothing.
            seed: what the seeds of rows without one are made of, with their keys.
            column: the one that has the prompts.
            processes: how many draw, each with a pipeline of its own; see `fair_share` for the default. The pictures
                are the same with any number.
            threads: of each process; by default one, which draws most, but where memory has room for fewer processes
                than there are cores, they share the cores. Another number changes the last bits.
            memory: as `Pipeline.load` takes it; a limit is that of all processes on this machine together, and on a
                Ray cluster that of each.
            ray: the address of a Ray cluster whose machines draw, or `auto` for that of this machine; see `Fleet`.
            ray_copy: whether the bundle is sent to them; else they have it at its path.
            ray_wait: for how many seconds one is waited for that has room, where the cluster grows on demand.
            machine: further options of `Pipeline.load`.

        Raises:
            PromptsNotFoundError, InvalidRequestError: see `read_prompts`.
            PocketDiffusionError: what `Pipeline.load` raises.

        """
        if (ray_copy or ray_wait) and ray is None:
            raise InvalidRequestError("--ray-copy and --ray-wait are for a Ray cluster; give --ray, too")
        self._prompts = Path(prompts)
        self._column = column
        self.rows = sum(1 for _ in self._read())
        """How many there are."""
        if not self.rows:
            raise InvalidRequestError(f"{self._prompts} has no prompts; write some")
        budget, begun = MemoryBudget.parse(memory), identity_in(Path(output))
        if begun is not None:  # so that it goes on alike where less memory is free
            budget = replace(budget, asked=MemoryBudget.parse(begun.memory).asked) if budget.asked == AUTO else budget
            threads = begun.threads if threads is None else threads
        if ray is not None:
            threads = threads or 1
        usual, bundle = usual or Order(prompt=""), None if model is None else Path(model)
        pipeline = Pipeline.load(bundle, threads=threads, memory=budget, **machine)
        self._share = fair_share(pipeline, usual, budget, 1 if ray is not None else processes, threads)
        machine = {**machine, "threads": self._share.threads, "memory": self._share.memory}
        self._studio = Studio(bundle, usual, seed, self._prompts.parent, machine)
        self._fleet = (
            None if ray is None else Fleet.of(pipeline, ray, self._studio, processes, copy=ray_copy, patience=ray_wait)
        )
        self._folder = BatchFolder(Path(output), self._identity(pipeline))

    def __enter__(self) -> "Batch":
        """Take the folder; see `BatchFolder` for what is raised."""
        self._folder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.__exit__(kind, error, trace)

    @property
    def done(self) -> int:
        """How many pictures are there."""
        return len(self._folder)

    def draw(self) -> Generator[Record, None, None]:
        """Draw what is not there yet, and yield what became of each row; a closed one finishes what it draws.

        Raises:
            OutputError: the folder cannot be written; what is there stays.
            PocketDiffusionError: see `Artist.draw` and `draw_on_ray`.

        """
        rows = RowsLeft(self._prompts, self._column, self._folder.drawn)
        if self._fleet is not None:
            drawings = draw_on_ray(self._fleet, self._studio, rows)
        elif self._share.processes == 1:
            drawings = draw_here(self._studio, rows)
        else:
            drawings = draw_in_processes(self._studio, self._share.processes, rows)
        with closing(drawings):
            for drawn in drawings:
                yield self._folder.add(drawn)

    def finish(self) -> list[Path]:
        """Sort what is told of the rows; write it as Parquet, where pyarrow is installed, and a sheet of pictures.

        Returns:
            The files.

        Raises:
            OutputError: they cannot be written.

        """
        self._folder.sort()
        return [*write_table(self._folder), *write_contact_sheet(self._folder)]

    def _read(self) -> Iterator[Row]:
        return read_prompts(self._prompts, self._column)

    def _identity(self, pipeline: Pipeline) -> Identity:
        adapters = pipeline.adapters
        options = {
            **msgspec.structs.asdict(self._studio.usual),
            "seed": self._studio.seed,
            "column": self._column,
            "vae": sha256_of(pipeline.bundle.root / TINY_VAE / ADDON_NAME) if self._studio.machine.get("vae") else None,
            "LoRA folder": adapters.library.has_loras,  # without one, LoRAs that prompts name do nothing
            **{f"embedding {word}": concept.hash.sha256 for word, concept in adapters.concepts.items()},
            **{
                f"LoRA {lora.file.name} ({place})": (lora.scale, lora.text_encoder_scale, lora.file.hash.sha256)
                for place, lora in enumerate(adapters.loras, 1)
            },
        }
        return Identity(
            version=__version__,
            prompts=sha256_of(self._prompts),
            model=sha256_of(pipeline.bundle.root / MANIFEST_NAME),
            arithmetic=pipeline.arithmetic,
            memory=self._share.mode,
            threads=self._share.threads,
            options=msgspec.to_builtins({name: value for name, value in options.items() if value}),
        )
