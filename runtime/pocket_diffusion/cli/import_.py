"""`pocket-diffusion import`: a checkpoint to a bundle, without PyTorch."""

from pathlib import Path

import click

from pocket_diffusion.cli.options import checkpoint_options, command
from pocket_diffusion.cli.progress import WorkProgress


@command(
    "v1-5.safetensors sd15", "v1-5.ckpt sd15-int8 --weights int8", "anime.safetensors anime --vae vae.pt", name="import"
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@checkpoint_options
def import_(source: Path, output: Path, *, quiet: bool, **options: object) -> None:
    """Make a bundle at OUTPUT from SOURCE: a .ckpt, a .safetensors or a diffusers folder of Stable Diffusion.

    Needs no PyTorch and takes seconds. Other architectures, and a comparison with PyTorch: pocket-diffusion export.
    """
    from pocket_diffusion.importing import import_checkpoint

    with WorkProgress(hidden=quiet) as progress:
        bundle = import_checkpoint(source, output, on_progress=progress, **options)  # type: ignore[arg-type] # click checked the choices
    if not quiet:
        size = sum(record.size for record in bundle.manifest.files.values())
        click.echo(f'{output}  ({size / 1e6:.0f} MB); try: pocket-diffusion generate -m {output} "a lake at sunset"')
