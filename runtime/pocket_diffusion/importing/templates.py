"""Templates: bundles without weights, one file an architecture, made by the exporter (`pocket_export.templates`)."""

import io
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from pocket_diffusion.bundle import COMPONENTS, FORMAT_VERSION, MANIFEST_NAME, Manifest, WeightStorage
from pocket_diffusion.checkpoint.architecture import SCALING_FACTOR, TextEncoderSpec, UNetSpec, VAESpec
from pocket_diffusion.checkpoint.source import Source
from pocket_diffusion.errors import BundleFormatError, UnsupportedModelError
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.strict import Strict

FOLDER = Path(__file__).parent / "architectures"
ENDING = ".tar.xz"
SPECS_NAME = "specs.json"


class Specs(Strict, frozen=True):
    """An architecture: what the graphs were traced for."""

    text_encoder: TextEncoderSpec
    unet: UNetSpec
    vae: VAESpec

    @classmethod
    def of(cls, checkpoint: Source) -> "Specs":
        """Describe a checkpoint; what does not change its graphs is left at its default."""
        vae = msgspec.structs.replace(checkpoint.vae.spec, scaling_factor=SCALING_FACTOR)
        return cls(text_encoder=checkpoint.text_encoder.spec, unet=checkpoint.unet.spec, vae=vae)


@dataclass(frozen=True)
class Template:
    """A bundle without weights."""

    manifest: Manifest
    """Its `files` have the sizes of the weights files to be; all else of them is the template's own weights'."""
    files: dict[str, bytes]
    """Graphs, layer tables and certificates, by their names in the bundle."""

    @cached_property
    def tables(self) -> dict[str, LayerTable]:
        """The layer tables by component."""
        named = {name: self.manifest.component(name).layers for name in COMPONENTS}
        return {
            component: msgspec.json.decode(self.files[file], type=LayerTable)
            for component, file in named.items()
            if file is not None
        }

    @property
    def size(self) -> int:
        """The bytes of a bundle that is made of it."""
        return sum(record.size for record in self.manifest.files.values())


def find_template(checkpoint: Source, weights: WeightStorage) -> Template:
    """Return the template of a checkpoint's architecture and of a storage of weights.

    Raises:
        UnsupportedModelError: there is none; names what differs.
        BundleFormatError: the template belongs to another version of this program.

    """
    wanted = Specs.of(checkpoint)
    known = []
    for path in sorted(FOLDER.glob(f"*{ENDING}")):
        files = read_template_files(path)
        specs = msgspec.json.decode(files[SPECS_NAME], type=Specs)
        if specs == wanted:
            return template_of(path, files, weights)
        known.append(specs)
    raise UnsupportedModelError(
        f"{checkpoint.name} has an architecture without a template: {_difference(wanted, known)}; export it with "
        'PyTorch: `pip install "pocket-diffusion[export]"`, then `pocket-diffusion export`'
    )


def read_template_files(path: Path) -> dict[str, bytes]:
    """Return all files of an archive, by name."""
    content = io.BytesIO(lzma.decompress(path.read_bytes()))
    with tarfile.open(fileobj=content) as archive:
        members = ((member.name, archive.extractfile(member)) for member in archive)
        return {name: file.read() for name, file in members if file is not None}


def template_of(path: Path, files: dict[str, bytes], weights: WeightStorage) -> Template:
    """Return the template of one storage out of an archive's files; `path` is blamed.

    Raises:
        BundleFormatError: it belongs to another version of this program.

    """
    own = {name.removeprefix(f"{weights}/"): file for name, file in files.items() if name.startswith(f"{weights}/")}
    try:
        manifest = msgspec.json.decode(own.pop(MANIFEST_NAME), type=Manifest)
    except msgspec.DecodeError as error:
        raise BundleFormatError(
            f"{path} is not of this version of pocket-diffusion ({error}); install it anew"
        ) from None
    if manifest.format_version != FORMAT_VERSION:
        raise BundleFormatError(
            f"{path} makes bundles of format version {manifest.format_version}, not {FORMAT_VERSION}: it belongs to "
            "another version of pocket-diffusion; install it anew"
        )
    return Template(manifest, own)


def _difference(wanted: Specs, known: list[Specs]) -> str:
    """Return where the most similar architecture differs."""
    differences = sorted((list(_differences(wanted, specs)) for specs in known), key=len)
    return "; ".join(differences[0]) if differences else "this installation has none"


def _differences(wanted: Specs, known: Specs) -> Iterator[str]:
    for part in Specs.__struct_fields__:
        ours, theirs = getattr(known, part), getattr(wanted, part)
        for field in ours.__struct_fields__:
            if getattr(ours, field) != getattr(theirs, field):
                yield f"{part} has {field} {getattr(theirs, field)}, not {getattr(ours, field)}"
