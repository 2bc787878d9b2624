"""`pocket-diffusion samplers`: every sampler, scheduler and cache, a sentence each."""

from collections.abc import Sequence

import click

from pocket_diffusion.cli.options import command
from pocket_diffusion.drawing.caches import CACHES
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS


@command("")
def samplers() -> None:
    """List every sampler, scheduler and cache.

    `--sampler` and `--scheduler` take the names and the labels, and diffusers' class names; `--cache` takes a name, and
    an N after it.
    """
    rows = [
        (kind.name, kind.label, str(kind.evaluations), kind.scheduler or "checkpoint", kind.summary)
        for kind in SAMPLERS.values()
    ]
    _table(("sampler", "label", "evaluations a step", "scheduler", ""), rows)
    click.echo()
    _table(("scheduler", "label", ""), [(row.name, row.label, row.summary) for row in SCHEDULERS.values()])
    click.echo()
    _table(("cache", "N", ""), [(row.name, str(row.usual), row.summary) for row in CACHES.values()])
    click.echo(
        "\nThe scheduler beside a sampler is the one that it takes by itself; `checkpoint` is the spacing that the\n"
        "model's own configuration names (leading, linspace or trailing), or else diffusers' own for that sampler."
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
