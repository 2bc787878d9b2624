"""`pocket-diffusion export`: a checkpoint to a bundle."""

import sys
from pathlib import Path

import click

from pocket_diffusion.cli.options import checkpoint_options, command
from pocket_diffusion.cli.progress import WorkProgress
from pocket_diffusion.errors import ExportToolsMissingError


@command("v1-5.safetensors sd15", "v1-5.ckpt sd15-int8 --weights int8", "v1-5.safetensors sd15-cuda --target cuda")
@click.argument("source")
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="What it is tuned for."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True),
    metavar="DATASET",
    help="Captions to measure int8 or float16 on: Flickr30K's folder or a file of prompts.  [default: our own]",
)
@checkpoint_options
def export(source: str, output: Path, *, quiet: bool, **options: object) -> None:
    """Make a bundle at OUTPUT from SOURCE: a .ckpt, a .safetensors, a diffusers folder or a hub id.

    Stable Diffusion 1.5 takes a few minutes on two cores.
    """
    try:
        from pocket_export.export import export as run
    except ImportError as error:
        raise ExportToolsMissingError(
            f"exporting needs PyTorch and its company ({error.name} is missing); "
            'run `pip install "pocket-diffusion[export]"`'
        ) from None
    with WorkProgress(hidden=quiet) as progress:
        if sys.stderr.isatty():  # elsewhere a source that is refused gets one line, the error
            progress("reading the checkpoint", 0.0)
        bundle = run(source, output, on_progress=progress, **options)  # type: ignore[arg-type] # click checked the choices
    if not quiet:
        size = sum(record.size for record in bundle.manifest.files.values())
        click.echo(f'{output}  ({size / 1e6:.0f} MB); try: pocket-diffusion generate -m {output} "a lake at sunset"')
