"""The template of an architecture, from which the runtime imports checkpoints without PyTorch.

    python -m pocket_export.templates CHECKPOINT OUTPUT.tar.xz

A template is a bundle in each storage, without weights. CHECKPOINT is any of that architecture: its own weights matter
only to the figures that imported bundles inherit, parity and memory, which are measured here.
"""

import io
import lzma
import tarfile
import tempfile
from pathlib import Path
from typing import get_args

import click
import msgspec

from pocket_diffusion.bundle import COMPONENTS, MANIFEST_NAME, Bundle, WeightStorage
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.cli.progress import WorkProgress
from pocket_diffusion.importing.templates import ENDING, SPECS_NAME, Specs
from pocket_diffusion.writer import OnProgress
from pocket_export.checkpoint import read_checkpoint
from pocket_export.export import export
from pocket_export.rewrite.int8_products import Form
from pocket_export.sensitivity import RoundingErrors


def write_template(checkpoint: Path, output: Path, on_progress: OnProgress | None = None) -> None:
    """Export a checkpoint in each storage, and put all but the weights into one compressed file.

    Raises:
        CheckpointError, OutputError, ParityError: see `export`.

    """
    files = {SPECS_NAME: msgspec.json.encode(Specs.of(read_checkpoint(str(checkpoint)).source))}
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        for storage in get_args(WeightStorage):
            bundle = export(
                checkpoint, Path(folder, storage), weights=storage, first_forms=form_for_all, on_progress=on_progress
            )
            files |= {f"{storage}/{name}": content for name, content in template_files(bundle).items()}
        output.write_bytes(pack(files))


def form_for_all(errors: RoundingErrors) -> Form:
    """Return the form of a layer that suits checkpoints that nobody has measured.

    One scale a token bears large tokens, which real activations have. Convolutions cannot have it; their inputs come
    from norms.
    """
    return "tensor" if errors.token is None else "token"


def template_files(bundle: Bundle) -> dict[str, bytes]:
    """Return what a template has of a bundle, by the names in the bundle; of certificates, no figures of layers."""
    manifest = bundle.manifest
    components = [manifest.component(name) for name in COMPONENTS]
    weights = {component.weights for component in components}
    kept = {name for component in components for name in component.files} - weights
    files = {name: bundle.path(name).read_bytes() for name in kept}
    for int8 in manifest.int8_graphs.values():
        certificate = msgspec.json.decode(files[int8.certificate], type=Certificate)
        layers = tuple(msgspec.structs.replace(layer, storage_error=None, error=None) for layer in certificate.layers)
        files[int8.certificate] = msgspec.json.encode(msgspec.structs.replace(certificate, layers=layers))
    records = {name: record for name, record in manifest.files.items() if name in kept | weights}
    files[MANIFEST_NAME] = msgspec.json.encode(msgspec.structs.replace(manifest, files=records))
    return files


def pack(files: dict[str, bytes]) -> bytes:
    """Return an archive; the same files make the same bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, file in sorted(files.items(), key=lambda one: (Path(one[0]).name, one[0])):  # alike beside alike
            member = tarfile.TarInfo(name)
            member.size = len(file)
            archive.addfile(member, io.BytesIO(file))
    return lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
def main(checkpoint: Path, output: Path) -> None:
    """Write the template of CHECKPOINT's architecture to OUTPUT."""
    if not output.name.endswith(ENDING):
        raise click.UsageError(f"{output} should end in {ENDING}")
    with WorkProgress(hidden=False) as progress:
        write_template(checkpoint, output, progress)


if __name__ == "__main__":
    main()
