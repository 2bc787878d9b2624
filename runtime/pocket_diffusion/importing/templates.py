"""Templates: networks without weights, which the exporter has traced (`pocket_export.templates`), all in one archive.

A bundle is put together from the template of each of its networks, so that a text encoder or a VAE that several models
have is there once. The archive has, for each network, its spec and its files in each storage:

    unet/lcm/spec.json
    unet/lcm/fp16/network.json          components and files, as a bundle's manifest has them
    unet/lcm/fp16/unet.onnx, unet.layers.json, …
"""

import io
import lzma
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from pocket_diffusion.bundle import FORMAT_VERSION, Component, FileRecord, WeightStorage
from pocket_diffusion.checkpoint.architecture import SCALING_FACTOR, TextEncoderSpec, UNetSpec, VAESpec
from pocket_diffusion.checkpoint.source import Source
from pocket_diffusion.errors import BundleFormatError, UnsupportedModelError
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.strict import Strict

ARCHIVE = Path(__file__).parent / "networks.tar.xz"
SPEC_NAME = "spec.json"
NETWORK_NAME = "network.json"

Spec = TextEncoderSpec | UNetSpec | VAESpec
NETWORKS: dict[str, type[Spec]] = {"text_encoder": TextEncoderSpec, "unet": UNetSpec, "vae": VAESpec}
"""The VAE is two components of a bundle."""


class Network(Strict, frozen=True):
    """A network in one storage of its weights: what a bundle's manifest says of it."""

    format_version: int
    onnxruntime: str
    tools: dict[str, str]
    code_sha256: str
    """Of the exporter's code that made it, by which a test finds what has to be made anew."""
    components: dict[str, Component]
    files: dict[str, FileRecord]
    """Those of the archive, and the weights files to be, whose sizes alone count."""


@dataclass(frozen=True)
class Template:
    """A bundle without weights, put together from its networks."""

    networks: tuple[Network, ...]
    files: dict[str, bytes]
    """Graphs, layer tables and certificates, by their names in the bundle."""

    @cached_property
    def components(self) -> dict[str, Component]:
        """The networks of the bundle, by name."""
        return {name: one for network in self.networks for name, one in network.components.items()}

    @cached_property
    def records(self) -> dict[str, FileRecord]:
        """The sizes of all files by name; only those of weights files are missing from `files`."""
        return {name: record for network in self.networks for name, record in network.files.items()}

    @cached_property
    def tables(self) -> dict[str, LayerTable]:
        """The layer tables by component."""
        return {
            name: msgspec.json.decode(self.files[component.layers], type=LayerTable)
            for name, component in self.components.items()
            if component.layers is not None
        }

    @property
    def onnxruntime(self) -> str:
        """The oldest version that has all operators."""
        return max((network.onnxruntime for network in self.networks), key=_as_numbers)

    @property
    def size(self) -> int:
        """The bytes of a bundle that is made of it."""
        return sum(record.size for record in self.records.values())


def specs_of(checkpoint: Source) -> dict[str, Spec]:
    """Return what a checkpoint's graphs are traced for; what does not change them is left at its default."""
    vae = msgspec.structs.replace(checkpoint.vae.spec, scaling_factor=SCALING_FACTOR)
    return {"text_encoder": checkpoint.text_encoder.spec, "unet": checkpoint.unet.spec, "vae": vae}


def find_template(checkpoint: Source, weights: WeightStorage) -> Template:
    """Return the template of a checkpoint's networks and of a storage of weights.

    Raises:
        UnsupportedModelError: there is none of some network; names what differs.
        BundleFormatError: the templates belong to another version of this program.

    """
    files = read_archive(ARCHIVE)
    networks: list[Network] = []
    found: dict[str, bytes] = {}
    for kind, spec in specs_of(checkpoint).items():
        known = read_specs(files, kind)
        place = next((place for place, one in known.items() if one == spec), None)
        if place is None:
            raise UnsupportedModelError(
                f"{checkpoint.name} has a {kind} without a template: {_difference(spec, known)}; export it with "
                'PyTorch: `pip install "pocket-diffusion[export]"`, then `pocket-diffusion export`'
            )
        own = below(f"{place}/{weights}/", files)
        networks.append(_read_network(own.pop(NETWORK_NAME)))
        found |= own
    return Template(tuple(networks), found)


def read_archive(path: Path) -> dict[str, bytes]:
    """Return all files of an archive, by name."""
    content = io.BytesIO(lzma.decompress(path.read_bytes()))
    with tarfile.open(fileobj=content) as archive:
        members = ((member.name, archive.extractfile(member)) for member in archive)
        return {name: file.read() for name, file in members if file is not None}


def read_specs(files: Mapping[str, bytes], kind: str) -> dict[str, Spec]:
    """Return the networks of a kind that an archive has, by their places in it."""
    return {
        name.removesuffix(f"/{SPEC_NAME}"): msgspec.json.decode(file, type=NETWORKS[kind])
        for name, file in files.items()
        if name.startswith(f"{kind}/") and name.endswith(f"/{SPEC_NAME}")
    }


def below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files whose names begin with a folder's, by the rest of their names."""
    return {name.removeprefix(folder): file for name, file in files.items() if name.startswith(folder)}


def _read_network(file: bytes) -> Network:
    try:
        network = msgspec.json.decode(file, type=Network)
    except msgspec.DecodeError as error:
        raise BundleFormatError(
            f"{ARCHIVE} is not of this version of pocket-diffusion ({error}); install it anew"
        ) from None
    if network.format_version != FORMAT_VERSION:
        raise BundleFormatError(
            f"{ARCHIVE} makes bundles of format version {network.format_version}, not {FORMAT_VERSION}: it belongs to "
            "another version of pocket-diffusion; install it anew"
        )
    return network


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _difference(wanted: Spec, known: Mapping[str, Spec]) -> str:
    """Return where the most similar network differs."""
    differences = sorted((list(_differences(wanted, spec)) for spec in known.values()), key=len)
    return "; ".join(differences[0]) if differences else "this installation has none"


def _differences(wanted: Spec, known: Spec) -> Iterator[str]:
    for field in known.__struct_fields__:
        if getattr(known, field) != getattr(wanted, field):
            yield f"its {field} is {getattr(wanted, field)}, not {getattr(known, field)}"
