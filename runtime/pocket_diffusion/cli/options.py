"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from pocket_diffusion.machine.session import PROVIDERS
from pocket_diffusion.model.arithmetic import ARITHMETICS
from pocket_diffusion.model.budget import AUTO
from pocket_diffusion.model.memory import MODES

Function = TypeVar("Function", bound=Callable[..., None])

model_option = click.option(
    "-m", "--model", type=click.Path(path_type=Path), help="Bundle to draw with.  [default: the embedded one]"
)


def machine_options(command: Function) -> Function:
    """Add what the work is done with: `provider`, `threads`, `memory`, `arithmetic`, as `Pipeline.load` takes them."""
    for option in (
        click.option(
            "--arithmetic",
            type=click.Choice(ARITHMETICS),
            default=AUTO,
            show_default=True,
            help="Products in float32, or in 8 bits: faster, and nearly the same picture.",
        ),
        click.option(
            "--memory",
            default=AUTO,
            show_default=True,
            help=f"What to trade for memory: {', '.join((AUTO, *MODES))}; "
            "or a limit to keep to, such as 1500MB or 2GiB.",
        ),
        click.option("--threads", type=int, help="CPU threads.  [default: one a core]"),
        click.option(
            "--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True, help="What computes."
        ),
    ):  # the last one first, as decorators are
        command = option(command)
    return command
