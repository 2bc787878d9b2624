"""`pocket-diffusion add`: something beside its own networks for a bundle that is there."""

from pathlib import Path

import click

from pocket_diffusion.cli.options import command


@command("sd15 --tiny-vae taesd")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--tiny-vae",
    type=click.Path(path_type=Path),
    required=True,
    metavar="SOURCE",
    help="Tiny VAE (TAESD): a diffusers folder, its weights file, or a folder with taesd_encoder and taesd_decoder.",
)
@click.option("--force", is_flag=True, help="Replace one that is there.")
@click.option("--quiet", is_flag=True, help="No report.")
def add(bundle: Path, *, tiny_vae: Path, force: bool, quiet: bool) -> None:
    """Add a tiny VAE to BUNDLE, for `--vae tiny` and for previews. Needs no PyTorch and takes seconds."""
    from pocket_diffusion.importing.tiny_vae import add_tiny_vae

    addon = add_tiny_vae(bundle, tiny_vae, force=force)
    if not quiet:
        size = sum(record.size for record in addon.files.values())
        click.echo(
            f"{bundle} has a tiny VAE now ({size / 1e6:.0f} MB); try: pocket-diffusion generate -m {bundle} --vae tiny "
            '"a lake at sunset"'
        )
