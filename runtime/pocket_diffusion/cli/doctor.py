"""`pocket-diffusion doctor`: what this machine can run, and the traps that are known."""

import platform
import sys
from pathlib import Path

import click

from pocket_diffusion.doctor import examine
from pocket_diffusion.pipeline import DEFAULT_BUNDLE


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What is to compute.",
)
def doctor(bundle: Path | None, provider: str) -> None:
    """Look for what keeps pictures from being drawn here, or slows them down.

    With BUNDLE, whether it suits this machine; without, the embedded one is tried. Exit 1 if a fault was found.
    """
    click.echo(f"{'python':<16} {platform.python_version()} on {platform.system()} {platform.machine()}")
    report = examine(bundle or DEFAULT_BUNDLE, provider)
    for label, value in report.facts:
        click.echo(f"{label:<16} {value}")
    for fault in report.faults:
        click.echo(f"fault: {fault}", err=True)
    for hint in report.hints:
        click.echo(f"hint: {hint}")
    if report.faults:
        sys.exit(1)
    click.echo("no fault found")
