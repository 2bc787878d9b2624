"""`pocket-diffusion inspect`: what is in a bundle."""

from collections import Counter
from operator import itemgetter
from pathlib import Path

import click
import msgspec

from pocket_diffusion.addon import ROLES, TINY_VAE, Addon, read_addon, with_tiny_vae
from pocket_diffusion.bundle import COMPONENTS, CONCEPTS, Bundle, Component, FloatRange, Manifest
from pocket_diffusion.certificate import Certificate, Computation
from pocket_diffusion.cli.options import bundle_argument, command
from pocket_diffusion.text import one_line

_COMPUTED: dict[Computation, str] = {
    "tensor": "with one scale",
    "token": "with a scale a token",
    "two_terms": "in two terms",
    "float32": "in float32",
}
_WORST = 3
"""How many layers are named."""


@command("", "sd15", "sd15 --json")
@bundle_argument
@click.option("--json", "as_json", is_flag=True, help="The manifest and the certificates, for programs.")
def inspect(bundle: Path, *, as_json: bool) -> None:
    """Show what is in BUNDLE: architecture, sizes, precision, parity, provenance, and the words of a small model.

    Without BUNDLE, the embedded one is shown.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    vocabulary = opened.vocabulary()
    certificates = {name: opened.certificate(name) for name in manifest.int8_graphs}
    addon = read_addon(bundle)
    if as_json:
        shown = {**msgspec.to_builtins(manifest), "certificates": certificates}
        if addon is not None:
            shown[TINY_VAE] = addon
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))
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
        ("can be given", ", ".join(_adapters(manifest)) or "neither LoRA nor embeddings; export the bundle again"),
        ("prediction", manifest.schedule.prediction_type),
        ("token limit", str(manifest.tokenizer.max_tokens)),
        *(() if vocabulary is None else [("known words", ", ".join(vocabulary.words))]),
        ("source", source.source),
        *(("chosen", note) for note in source.notes),
        ("license", source.license or "not stated by the source"),
        ("created", f"{source.created} with " + ", ".join(f"{k} {v}" for k, v in source.tools.items())),
    ]
    for label, value in rows:
        click.echo(f"{label:<16} {one_line(value)}")
    click.echo(f"\n{'component':<14} {'parameters':>12} {'on disk':>10}   error against PyTorch (limit)")
    for name in COMPONENTS:
        component = manifest.component(name)
        size = sum(manifest.files[file].size for file in component.files)
        parameters = f"{component.parameters / 1e6:>10.2f} M"
        click.echo(f"{name:<14} {parameters} {_megabytes(size):>10}   {_error(component)}")
    for name in COMPONENTS:
        if (found := manifest.component(name).range) is not None:
            click.echo(f"{name:<14} {one_line(_range(found))}")
    for name, certificate in certificates.items():
        _show_certificate(name, certificate)
    if addon is not None:
        _show_tiny_vae(opened, addon)


def _show_tiny_vae(bundle: Bundle, addon: Addon) -> None:
    source = addon.provenance
    click.echo(f"\ntiny VAE, for --vae tiny and for previews: {one_line(source.source)}")
    for label, value in (
        ("license", source.license or "not stated by the source"),
        ("created", source.created),
        *((role, _error(addon.component(role))) for role in ROLES),
    ):
        click.echo(f"  {label:<14} {one_line(value)}")
    whole = with_tiny_vae(bundle)
    for role in ROLES:
        if role in whole.manifest.int8_graphs:
            _show_certificate(f"tiny {role}", whole.certificate(role))


def _show_certificate(name: str, certificate: Certificate) -> None:
    click.echo(f"\n{name} in 8 bits")
    for label, value in _figures(certificate):
        click.echo(f"  {label:<14} {one_line(value)}")


def _error(component: Component) -> str:
    """Return how far a component was from PyTorch at most."""
    worst = max(component.parity, key=lambda figure: figure.relative_error, default=None)
    return f"{worst.relative_error:.1e} relative ({worst.tolerance:.0e})" if worst else "not measured"


def _range(found: FloatRange) -> str:
    """Return how far a float16 network's numbers reach, and how much of it computes in float32."""
    return (
        f"numbers up to {found.peak:,.0f} ({found.where}); {found.in_float32} of {found.operators} operators in float32"
    )


def _adapters(manifest: Manifest) -> list[str]:
    """Return what may change the bundle's weights or words when it is loaded."""
    has_tables = all(manifest.component(name).layers for name in COMPONENTS)
    takes = {"LoRA": has_tables, "embeddings": manifest.text_encoder.takes(CONCEPTS)}
    return [name for name, taken in takes.items() if taken]


def _figures(certificate: Certificate) -> list[tuple[str, str]]:
    """Return what a certificate says, as labels and values."""
    allowed = "auto uses it" if certificate.allows else "auto does not use it"
    counts = Counter(layer.computed for layer in certificate.layers)
    in_8_bits = [(layer.error, layer) for layer in certificate.layers if layer.error is not None]
    worst = [
        f"{layer.name} {error:.1e} ({_COMPUTED[layer.computed]})"
        for error, layer in sorted(in_8_bits, key=itemgetter(0), reverse=True)[:_WORST]
    ]
    unmeasured = "none" if counts.keys() <= {"float32"} else "not measured"  # the forms of an import are not its own
    return [
        ("error", f"{certificate.relative_error:.1e} relative to the exact graph ({certificate.bound:.1e}): {allowed}"),
        ("largest error", f"{certificate.largest_error:.1e} in {certificate.evaluations} evaluations"),
        ("picture", "draws none" if certificate.psnr_db is None else f"{certificate.psnr_db:.1f} dB"),
        ("measured on", certificate.what),
        ("layers", ", ".join(f"{counts[way]} {words}" for way, words in _COMPUTED.items() if counts[way]) or "none"),
        ("worst layers", ", ".join(worst) or unmeasured),
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
