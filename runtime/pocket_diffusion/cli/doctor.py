"""`pocket-diffusion doctor`: what this machine can run, and the traps that are known."""

import platform
import sys
from pathlib import Path

import click

from pocket_diffusion.cli.options import bundle_argument, command
from pocket_diffusion.doctor import examine


@command("", "sd15")
@bundle_argument
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What is to compute.",
)
def doctor(bundle: Path, provider: str) -> None:
    """Look for what keeps pictures from being drawn here, or slows them down.

    With BUNDLE, whether it suits this machine; without, the embedded one is tried. Exit 1 if a fault was found.
    """
    click.echo(f"{'python':<16} {platform.python_version()} on {platform.system()} {platform.machine()}")
    report = examine(bundle, provider)
    for label, value in report.facts:
        click.echo(f"{label:<16} {value}")
    for fault in report.faults:
        click.echo(f"fault: {fault}", err=True)
    for hint in report.hints:
        click.echo(f"hint: {hint}")
    if report.faults:
        sys.exit(1)
    click.echo("no fault found")
