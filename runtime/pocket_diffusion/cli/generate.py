"""`pocket-diffusion generate`: a picture from a prompt."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from PIL import Image

from pocket_diffusion.cli.options import (
    adapter_options,
    command,
    folder_options,
    machine_options,
    model_option,
    order_options,
)
from pocket_diffusion.drawing.images import check_output_format, make_folder, names_picture, save_picture
from pocket_diffusion.drawing.prompt import PromptWarning, check_described, shorten
from pocket_diffusion.drawing.recorded import OtherModelWarning, Recorded, recorded_in
from pocket_diffusion.errors import InvalidRequestError, OutputError
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.result import Step

_PREVIEW_SCALE = 8  # pixels a latent
_MOST_WORDS = 5
"""How many unknown words are named."""


@command(
    '"a lake under snowy mountains at sunset" --seed 1',
    '"a red boat on a lake" -m sd15 --steps 20 -o boat.png',
    '"a lighthouse at night" --count 4 -o lighthouse.png',
    '"a lighthouse at night" --seed 7 --variation 0.2 --count 4',
    '"a meadow in winter" --image meadow.jpg --strength 0.6',
    "--from lake.png --steps 50",
)
@click.argument("prompt", required=False)
@model_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write. With --count > 1, a folder, or a file's name that is numbered: lake-1.png, lake-2.png, ….  "
    "[default: picture.png, or pictures/]",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="Draw as a picture was drawn, by what its file says; other options, and PROMPT, come before that.",
)
@order_options
@click.option("--seed", type=int, help="The same seed draws the same picture.  [default: drawn]")
@click.option("--count", type=int, default=1, show_default=True, help="How many pictures; each uses the next seed.")
@click.option(
    "--variation",
    "variation_strength",
    type=float,
    default=0.0,
    help="How far to turn the seed's noise to another seed's, 0 to 1: pictures like the seed's own.  [default: 0]",
)
@click.option("--variation-seed", type=int, help="The other seed; --count takes those that follow.  [default: drawn]")
@click.option("--image", type=click.Path(path_type=Path), help="Picture to start from (image to image).")
@click.option(
    "--strength",
    type=float,
    help="How much to change the picture, 0 to 1.  [default: 0.8; 1 to repaint by a mask with a model for that]",
)
@click.option("--mask", type=click.Path(path_type=Path), help="With --image: white is repainted (inpainting).")
@click.option(
    "--mask-feather",
    type=float,
    default=0.0,
    metavar="PIXELS",
    help="Let what is drawn pass into the picture around the mask; beyond, the picture is kept.  [default: 0]",
)
@adapter_options
@folder_options
@click.option("--preview-every", type=click.IntRange(1), metavar="N", help="Write a preview every N steps.")
@machine_options
@click.option("--verbose", is_flag=True, help="Say what was chosen and why, and how long each stage took.")
@click.option("--quiet", is_flag=True, help="No progress bar and no report.")
def generate(
    prompt: str | None,
    *,
    model: Path | None,
    output: Path | None,
    source: Path | None,
    preview_every: int | None,
    provider: str,
    threads: int | None,
    vae: str | None,
    memory: str,
    arithmetic: str,
    loras: tuple[str, ...],
    embeddings: tuple[Path, ...],
    lora_folder: Path | None,
    embedding_folder: Path | None,
    verbose: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401 - an order's fields
) -> None:
    """Draw what PROMPT says."""
    recorded = None if source is None else recorded_in(source)
    asked = {"prompt": prompt, "vae": vae, "arithmetic": arithmetic, **options}
    if recorded is not None:
        asked |= _not_given(recorded)
        if recorded.starts_from_picture and asked["image"] is None:
            raise InvalidRequestError(f"{source} was made of another picture; give that with --image")
        asked["loras"] = () if loras else recorded.fields.get("loras", ())
    if asked["prompt"] is None:
        raise click.UsageError("Missing argument 'PROMPT'; or give a picture that says how it was drawn, with --from.")
    vae, arithmetic = asked.pop("vae"), asked.pop("arithmetic")
    if asked["strength"] is not None and asked["image"] is None:
        raise InvalidRequestError("--strength goes with --image; give one, or leave --strength out")
    check_described(asked["prompt"])
    order = Order(**asked)
    several = order.count > 1
    try:
        destination = _check_destination(output, several=several)
    except OSError as error:  # a name that is too long, a loop of links
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{output} cannot be written: {error.strerror}; choose another place with -o") from None

    started = time.perf_counter()
    pipeline = Pipeline.load(
        model,
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
    if recorded is not None and recorded.model not in (None, pipeline.name):
        warnings.warn(
            f"{source} was drawn with {recorded.model}, and this is {pipeline.name}; -m chooses another bundle",
            OtherModelWarning,
            stacklevel=2,
        )
    with (
        _log_shown(hidden=not verbose),
        closing(pipeline.steps(order, previews=preview_every is not None)) as steps,
        _Progress(hidden=quiet) as progress,
        _Preview(destination, preview_every, in_folder=several and not names_picture(destination)) as preview,
    ):
        _warn_of_unknown_words(pipeline, order.prompt)  # which was not refused
        for step in steps:
            progress.update(step)
            preview.update(step)
        result = steps.result

    for index, path in enumerate(result.save(destination)):
        if not quiet:
            width, height = result.images[index].size
            seconds = time.perf_counter() - started
            click.echo(f"{path}  ({width}x{height}, seed {result.seeds[index]}, {seconds:.1f} s)")


def _not_given(recorded: Recorded) -> dict[str, Any]:
    """Return what a picture says of the options that the command line does not have."""
    context = click.get_current_context()

    def is_given(name: str) -> bool:
        return context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)

    told = {**recorded.fields, "vae": recorded.vae, "arithmetic": recorded.arithmetic}
    if is_given("sampler"):  # which what goes with another one may not fit
        told = {name: value for name, value in told.items() if name not in ("scheduler", "eta", "s_noise")}
    return {name: value for name, value in told.items() if value is not None and not is_given(name)}


def _warn_of_unknown_words(pipeline: Pipeline, prompt: str) -> None:
    """Say which words a model that knows few was not trained on: it draws something else, and nobody would know why."""
    vocabulary = pipeline.bundle.vocabulary()
    unknown = [] if vocabulary is None else vocabulary.unknown_words(prompt, pipeline.adapters.concepts)
    if unknown:
        shown = ", ".join(map(shorten, unknown[:_MOST_WORDS])) + (", …" if len(unknown) > _MOST_WORDS else "")
        warnings.warn(
            f"this model does not know {shown}; `pocket-diffusion inspect` lists the words that it knows",
            PromptWarning,
            stacklevel=2,
        )


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
    """A bar with an estimate of the time left; in a log, where a bar is noise, one line as soon as that is known."""

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

    def update(self, step: Step) -> None:
        """Be called after each step."""
        done, total = step.number, step.total
        if self._hidden:
            return
        if done == 1:  # before which graphs were loaded, so that it tells nothing of those to come
            self._first_done = time.perf_counter()
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(length=total, label="drawing", show_pos=True, file=sys.stderr)
            self._bar.update(1)
        elif done == min(2, total):
            left = f", about {(time.perf_counter() - self._first_done) * (total - 2):.0f} s left" if total > 2 else ""
            click.echo(f"drawing: {total} step{'s' if total > 1 else ''}{left}", err=True)


class _Preview:
    """A file that shows the picture every so many steps, for as long as it is drawn."""

    def __init__(self, destination: Path, every: int | None, *, in_folder: bool) -> None:
        self._every = every
        self._path: Path | None = None
        self._folder = destination if in_folder else destination.absolute().parent
        self._stem = "preview" if in_folder else f"{destination.stem}-preview"

    def __enter__(self) -> "_Preview":
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def update(self, step: Step) -> None:
        """Be called after each step."""
        if self._every is None or step.number % self._every or step.number == step.total:
            return
        if self._path is None:
            make_folder(self._folder)
            self._path = _free_name(self._folder / f"{self._stem}.png")
        height, width = (side * _PREVIEW_SCALE for side in step.predicted.shape[2:])
        save_picture(step.preview().resize((width, height), Image.Resampling.BICUBIC), self._path)


def _check_destination(output: Path | None, *, several: bool) -> Path:
    """Refuse a place that cannot be written before the work, not after it."""
    if output is None:
        output = _free_name(Path("pictures" if several else "picture.png"))
    if several and not names_picture(output):
        destination = output
        folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
        if folder == output.absolute() and not folder.is_dir():
            raise OutputError(f"{output} is a file; with --count > 1, -o names a folder, or a picture such as lake.png")
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
