"""`pocket-diffusion inspect`: what is in a bundle."""

from pathlib import Path

import click
import msgspec

from pocket_diffusion.bundle import COMPONENTS, Bundle
from pocket_diffusion.cli.text import one_line


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The manifest itself, for programs.")
def inspect(bundle: Path, *, as_json: bool) -> None:
    """Show what is in BUNDLE: architecture, sizes, precision, parity, provenance."""
    manifest = Bundle.open(bundle).manifest
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        return
    defaults, source = manifest.defaults, manifest.provenance
    rows = [
        ("architecture", manifest.architecture),
        ("target", f"{manifest.target}, weights stored as {manifest.weights}"),
        ("size on disk", _megabytes(sum(record.size for record in manifest.files.values()))),
        (
            "default picture",
            f"{defaults.width}x{defaults.height}, {defaults.steps} steps of {defaults.sampler}"
            f"{f' ({defaults.scheduler})' if defaults.scheduler else ''}, "
            f"guidance {defaults.guidance_scale:g}",
        ),
        ("prediction", manifest.schedule.prediction_type),
        ("token limit", str(manifest.tokenizer.max_tokens)),
        ("source", source.source),
        ("license", source.license or "not stated by the source"),
        ("created", f"{source.created} with " + ", ".join(f"{k} {v}" for k, v in source.tools.items())),
    ]
    for label, value in rows:
        click.echo(f"{label:<16} {one_line(value)}")
    click.echo(f"\n{'component':<14} {'parameters':>12} {'on disk':>10}   error against PyTorch (limit)")
    for name in COMPONENTS:
        component = manifest.component(name)
        size = sum(manifest.files[file].size for file in (component.graph, component.weights))
        worst = max(component.parity, key=lambda figure: figure.relative_error, default=None)
        error = f"{worst.relative_error:.1e} relative ({worst.tolerance:.0e})" if worst else "not measured"
        click.echo(f"{name:<14} {component.parameters / 1e6:>10.2f} M {_megabytes(size):>10}   {error}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
