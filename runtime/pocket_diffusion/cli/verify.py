"""`pocket-diffusion verify`: every file of a bundle against its sha256."""

import sys
from pathlib import Path

import click

from pocket_diffusion.addon import read_addon, with_files_of
from pocket_diffusion.bundle import MANIFEST_NAME, Bundle, read_manifest
from pocket_diffusion.cli.options import bundle_argument, command


@command("", "sd15")
@bundle_argument
def verify(bundle: Path) -> None:
    """Compare every file of BUNDLE, and of a tiny VAE in it, with its sha256; exit 1 if one differs.

    Without BUNDLE, the embedded one is compared.
    """
    opened = Bundle(bundle, read_manifest(bundle))
    addon = read_addon(bundle)
    if addon is not None:
        opened = with_files_of(addon, opened)
    faults = opened.damaged_files()
    for fault in faults.values():
        click.echo(f"error: {bundle}: {fault}", err=True)
    if faults:
        sys.exit(1)
    click.echo(f"{bundle}: all {len(opened.manifest.files)} files are what {MANIFEST_NAME} says")
