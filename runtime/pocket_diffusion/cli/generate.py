"""`pocket-diffusion generate`: a picture from a prompt."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pocket_diffusion.cli.options import machine_options, model_option
from pocket_diffusion.errors import InvalidRequestError, OutputError
from pocket_diffusion.images import check_output_format
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.samplers import SAMPLERS


@click.command()
@click.argument("prompt")
@model_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write, or folder with --count > 1.  [default: picture.png, or pictures/]",
)
@click.option("-n", "--negative", "negative_prompt", default="", help="What not to draw.")
@click.option("--width", type=int, help="Pixels, a multiple of 8.  [default: the bundle's]")
@click.option("--height", type=int, help="Pixels, a multiple of 8.  [default: the bundle's]")
@click.option("--steps", type=int, help="More steps, finer pictures.  [default: the bundle's]")
@click.option(
    "--guidance", "guidance_scale", type=float, help="How strictly to follow the prompt.  [default: the bundle's]"
)
@click.option("--sampler", help=f"One of: {', '.join(SAMPLERS)}.  [default: the bundle's]")
@click.option("--seed", type=int, help="The same seed draws the same picture.  [default: drawn]")
@click.option("--count", type=int, default=1, show_default=True, help="How many pictures; each uses the next seed.")
@click.option("--image", type=click.Path(path_type=Path), help="Picture to start from (image to image).")
@click.option("--strength", type=float, help="How much to change the picture, 0 to 1.  [default: 0.8]")
@click.option("--mask", type=click.Path(path_type=Path), help="With --image: white is repainted (inpainting).")
@machine_options
@click.option("--verbose", is_flag=True, help="Say what was chosen and why, and how long each stage took.")
@click.option("--quiet", is_flag=True, help="No progress bar and no report.")
def generate(
    prompt: str,
    *,
    model: Path | None,
    output: Path | None,
    provider: str,
    threads: int | None,
    memory: str,
    verbose: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401 - handed to Pipeline.generate by name
) -> None:
    """Draw what PROMPT says."""
    if options["strength"] is None:
        del options["strength"]
    elif options["image"] is None:
        raise InvalidRequestError("--strength goes with --image; give one, or leave --strength out")
    several = options["count"] > 1
    try:
        destination = _check_destination(output, several=several)
    except OSError as error:  # a name that is too long, a loop of links
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{output} cannot be written: {error.strerror}; choose another place with -o") from None

    started = time.perf_counter()
    pipeline = Pipeline.load(model, provider=provider, threads=threads, memory=memory)
    with _log_shown(hidden=not verbose), _Progress(hidden=quiet) as progress:
        result = pipeline.generate(prompt, on_step=progress.update, **options)

    if several:
        _make_folder(destination)
    for index, seed in enumerate(result.seeds):
        path = destination / f"{seed}.png" if several else destination
        result.save(path, index)
        if not quiet:
            size = f"{result.request.width}x{result.request.height}"
            click.echo(f"{path}  ({size}, seed {seed}, {time.perf_counter() - started:.1f} s)")


@contextmanager
def _log_shown(*, hidden: bool) -> Iterator[None]:
    """Have what the package logs shown on stderr."""
    if hidden:
        yield
        return
    logger, handler = logging.getLogger("pocket_diffusion"), logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _Progress:
    """A bar with an estimate of the time left; in a log, where a bar is noise, a line every tenth of the way."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._first_done = 0.0
        self._bar: Any = None

    def __enter__(self) -> "_Progress":
        if not self._hidden and sys.stderr.isatty():
            click.echo("loading …\r", err=True, nl=False)  # the bar is drawn over it
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def update(self, done: int, total: int, _latents: object) -> None:
        """Be called after each step."""
        if self._hidden:
            return
        if done == 1:  # before which graphs were loaded, so that it tells nothing of those to come
            self._first_done = time.perf_counter()
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(length=total, label="drawing", show_pos=True, file=sys.stderr)
            self._bar.update(1)
        elif 10 * done // total > 10 * (done - 1) // total:
            since_first = time.perf_counter() - self._first_done
            left = f", about {since_first / (done - 1) * (total - done):.0f} s left" if done > 1 else ""
            click.echo(f"drawing: step {done} of {total}{left}", err=True)


def _check_destination(output: Path | None, *, several: bool) -> Path:
    """Refuse a place that cannot be written before the work, not after it."""
    if output is None:
        output = _free_name(Path("pictures" if several else "picture.png"))
    if several:
        destination = output
        folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
        if folder == output.absolute() and not folder.is_dir():
            raise OutputError(f"{output} is a file; with --count > 1, -o names a folder")
    else:
        destination = _free_name(output / "picture.png") if output.is_dir() else output
        check_output_format(destination)
        folder = destination.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is no folder; make it first, or choose another place with -o")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} cannot be written to; choose another place with -o")
    return destination


def _free_name(path: Path) -> Path:
    """Return the path, numbered where that name is taken: what nobody named must not replace anything."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be made: {error.strerror}; choose another place with -o") from None
