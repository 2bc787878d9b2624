"""`pocket-diffusion batch`: many pictures from a file of prompts."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from pocket_diffusion.batch import Batch, Record
from pocket_diffusion.batch.folder import RESULTS
from pocket_diffusion.batch.prompts import PROMPT
from pocket_diffusion.cli.options import (
    adapter_options,
    command,
    folder_options,
    machine_options,
    model_option,
    order_options,
)
from pocket_diffusion.errors import InferenceError
from pocket_diffusion.interrupts import EXIT_CODE, handled_by
from pocket_diffusion.order import Order

_LINE_SECONDS = 60
"""Between two lines of progress, where there is no terminal."""


@command(
    "prompts.csv pictures",
    "captions.jsonl pictures -m sd15 --steps 20 --sampler dpmpp_2m",
    "results.csv flickr30k --steps 8",
    "prompts.csv pictures --ray auto",
)
@click.argument("prompts", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@model_option
@click.option("--prompt-column", "column", default=PROMPT, show_default=True, metavar="NAME", help="Has the prompts.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="What the seeds of rows without one are made of, with keys."
)
@click.option("--strict", is_flag=True, help="Stop at the first row that cannot be drawn.")
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    help="How many draw, each with --threads, together within --memory.  [default: one a core, if memory suffices]",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Draw on the machines of a Ray cluster: HOST:PORT, or auto for that of this machine.",
)
@click.option("--ray-copy", is_flag=True, help="Send the bundle to these machines; else they have it at its path.")
@click.option(
    "--ray-wait",
    type=click.FloatRange(0, 86400),
    default=0.0,
    metavar="SECONDS",
    help="Wait for a machine with room, where the cluster grows on demand.",
)
@order_options
@adapter_options
@folder_options
@partial(machine_options, usual_threads="1; more change the last bits of pictures")
@click.option("--quiet", is_flag=True, help="No progress and no report.")
def batch(
    prompts: Path,
    output: Path,
    *,
    model: Path | None,
    column: str,
    seed: int,
    strict: bool,
    processes: int | None,
    ray: str | None,
    ray_copy: bool,
    ray_wait: float,
    provider: str,
    threads: int | None,
    vae: str | None,
    memory: str,
    arithmetic: str,
    loras: tuple[str, ...],
    embeddings: tuple[Path, ...],
    lora_folder: Path | None,
    embedding_folder: Path | None,
    quiet: bool,
    **options: Any,  # noqa: ANN401 - an order's fields
) -> None:
    """Draw all rows of PROMPTS into the folder OUTPUT, and go on there when it was stopped.

    PROMPTS is a .csv, .tsv, .jsonl or .parquet file whose columns are named as in Python (prompt, negative_prompt,
    seed, width, steps, image, mask, strength, loras, …), or a .txt file with a prompt a line. A column key or id names
    its row; other columns are carried through.
    """
    work = Batch(
        prompts,
        output,
        model=model,
        usual=Order(prompt="", **options),
        seed=seed,
        column=column,
        processes=processes,
        ray=ray,
        ray_copy=ray_copy,
        ray_wait=ray_wait,
        provider=provider,
        threads=threads,
        vae=vae,
        memory=memory,
        arithmetic=arithmetic,
        loras=loras,
        embeddings=embeddings,
        lora_folder=lora_folder,
        embedding_folder=embedding_folder,
    )
    failed = 0
    with work, _Progress(work, hidden=quiet) as progress, _stop_asked_for() as stop, closing(work.draw()) as records:
        for record in records:
            progress.update(record)
            failed += record.error is not None
            if record.error is not None and strict:
                raise InferenceError(f"row {record.row}: {record.error}")
            if stop:
                break
        progress.end()
        files = () if stop else work.finish()
    if not quiet:
        for path in files:
            click.echo(path)
    done = f"{work.done:,} of {work.rows:,} pictures are drawn"
    if stop:
        click.echo(f"stopped: {done}; the same command goes on", err=True)
        sys.exit(EXIT_CODE)
    if failed:
        raise InferenceError(
            f"{done}; {output / RESULTS} says why not the others, and the same command tries them again"
        )
    if not quiet:
        click.echo(f"{output}  ({done})")


@contextmanager
def _stop_asked_for() -> Iterator[list[int]]:
    """Have the first Ctrl-C put something into a list, and the next one interrupt at once."""
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if asked:
            signal.default_int_handler(number, frame)
        asked.append(number)
        click.echo("\nstopping after what is being drawn; Ctrl-C again stops at once", err=True)

    with handled_by(stop):
        yield asked


class _Progress:
    """A bar with the rate and an estimate of the time left; in a log, where a bar is noise, a line now and then."""

    def __init__(self, work: Batch, *, hidden: bool) -> None:
        self._work = work
        self._hidden = hidden
        self._begun = self._told = 0.0
        self._drawn = 0
        self._bar: Any = None

    def __enter__(self) -> "_Progress":
        if self._work.done and not self._hidden:
            click.echo(f"{self._work.done:,} of {self._work.rows:,} pictures are there", err=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def update(self, record: Record) -> None:
        """Be called after each row."""
        if self._hidden:
            return
        if record.error is not None:
            click.echo(f"{self._clear}row {record.row}: {record.error}", err=True)
        self._drawn += 1
        now = time.monotonic()
        self._begun = self._begun or now - record.seconds
        rate = self._drawn / max(now - self._begun, 1e-3)
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(length=self._work.rows, label="drawing", show_pos=True, file=sys.stderr)
                self._bar.update(self._work.done)
            self._bar.label = f"{60 * rate:,.1f} a minute"
            self._bar.update(1)
        elif not self._told or now - self._told >= _LINE_SECONDS:
            self._told = now
            left = (self._work.rows - self._work.done) / rate
            click.echo(
                f"{self._work.done:,} of {self._work.rows:,}, {60 * rate:,.1f} a minute, about {_duration(left)} left",
                err=True,
            )

    def end(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None

    @property
    def _clear(self) -> str:
        return "\n" if self._bar is not None else ""


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
