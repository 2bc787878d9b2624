"""A tiny VAE for a bundle, without PyTorch: read → place the weights → measure the 8-bit graphs' scales → certify.

All tiny VAEs have one architecture, so that their graphs come with the package, made by
`pocket_export.tiny_vae_template`. Their 8-bit graphs know the largest magnitude of each activation beforehand. It
depends on the weights, and is measured here by a third graph of each half: the exact one, with these magnitudes as
another output.
"""

import datetime
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from pocket_diffusion.addon import ADDON_NAME, ROLES, TINY_VAE, Addon, check_latents
from pocket_diffusion.bundle import Bundle, Component, FileRecord, Provenance, TensorSpec, sha256_of
from pocket_diffusion.certificate import Certificate, LayerFigure
from pocket_diffusion.checkpoint.fitting import check_fit
from pocket_diffusion.checkpoint.tiny_vae import TinyVAESource, read_tiny_vae
from pocket_diffusion.errors import (
    BundleFormatError,
    CheckpointError,
    OutputError,
    OutputExistsError,
    PocketDiffusionError,
    TensorMismatchError,
)
from pocket_diffusion.importing.templates import read_archive
from pocket_diffusion.layers import LayerTable, store
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.scratch import ScratchFolder
from pocket_diffusion.version import __version__
from pocket_diffusion.writer import NEW, bring_back, sync_folder, take_place

ARCHIVE = Path(__file__).parent / "tiny_vae.tar.xz"
MAGNITUDES = "magnitudes"
"""The output `[activations]` of the graph that measures: the largest magnitude of each activation that is rounded."""
BOUNDS = {"vae_encoder": 2e-2, "vae_decoder": 8e-2}
"""The relative error up to which an 8-bit graph is used unasked. The encoder's is that of all networks, since a picture
that is given should be kept. The decoder's is a third of what a tiny VAE's pictures differ from the VAE's by, about
25 dB: whoever asks for one has chosen time."""
_SIDE = 128
"""Of the pictures that are measured on, in pixels."""
_LEAST_ERROR = float(np.finfo(np.float32).eps) ** 2
"""The mean square below which two pictures are the same, so that their ratio is a number."""
_WHAT = "pictures of patches of colour, sharp, blurred and noisy, and noise as latents"

Array = NDArray[np.float32]


def add_tiny_vae(bundle: str | os.PathLike[str], source: str | os.PathLike[str], *, force: bool = False) -> Addon:
    """Add a tiny VAE to a bundle that is there; it appears whole or not at all.

    Args:
        bundle: whose folder gets another one, `tiny_vae`; nothing else of it is touched.
        source: a file or folder, see `read_tiny_vae`.
        force: replace one that is there.

    Raises:
        BundleNotFoundError, BundleFormatError, BundleDamagedError: see `Bundle.open`.
        CheckpointError: the source is no tiny VAE for Stable Diffusion; see those below it.
        InvalidRequestError: it speaks other latents than the bundle.
        OutputExistsError, OutputError: there is one already, another is just being added, or the folder cannot be
            written.

    """
    opened = Bundle.open(bundle)
    root = opened.root.resolve()
    place = root / TINY_VAE
    read = read_tiny_vae(Path(source))
    try:
        folder = ScratchFolder(root, TINY_VAE, partial(bring_back, place))
        with folder as scratch:
            if folder.rival is not None:
                raise OutputExistsError(
                    f"a tiny VAE is being added to {root} by another process; wait for it; if there is none, remove "
                    f"{folder.rival}"
                )
            _check_place(place, force=force)
            addon = write_tiny_vae(read, scratch / NEW)
            check_latents(addon, opened.manifest.latents)
            sync_folder(scratch / NEW)
            take_place(scratch, place)
            sync_folder(root)
    except OSError as error:
        if isinstance(error, PocketDiffusionError):
            raise
        raise OutputError(
            f"{place} cannot be written: {error.strerror or error}; make room or choose another place"
        ) from None
    return addon


def _check_place(place: Path, *, force: bool) -> None:
    if not os.path.lexists(place):
        return
    if place.is_symlink() or not (place / ADDON_NAME).is_file():
        raise OutputExistsError(f"{place} exists and is no tiny VAE; move it away first")
    if not force:
        raise OutputExistsError(f"{place} exists; use --force to replace it")


def write_tiny_vae(source: TinyVAESource, folder: Path) -> Addon:
    """Write a tiny VAE into a folder, which is made; its manifest last.

    Raises:
        CheckpointError: what it computes is not finite.
        TensorMismatchError: a tensor is missing, left over, of another shape or not finite.
        BundleFormatError: the graphs belong to another version of this program.
        OperatorUnavailableError: this ONNX Runtime is too old for them.

    """
    files = read_archive(ARCHIVE)
    template = _template(files)
    tables = {role: _table(template.component(role), files) for role in ROLES}
    shapes = {name: layer.shape for table in tables.values() for name, layer in table.layers.items()}
    check_fit(source.name, "a tiny VAE", source.tensors, shapes)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for role in ROLES:
        _place_weights(source, tables[role], folder / template.component(role).weights)
    components = {role: template.component(role) for role in ROLES}
    if products_are_right():
        components = _certify_both(components, folder, source.name)
    else:
        components = {role: _without_int8(one) for role, one in components.items()}
    kept = {name for component in components.values() for name in component.files}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    tools = template.provenance.tools | {"pocket-diffusion": __version__}
    addon = msgspec.structs.replace(
        template,
        **components,
        provenance=Provenance(
            source=source.name,
            source_sha256={name: sha256_of(path) for name, path in source.files.items()},
            license=source.license,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            tools=tools,
            notes=template.provenance.notes,
        ),
        files={
            name: FileRecord(size=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
            for name in sorted(kept)
        },
    )
    write_manifest(addon, folder)
    return addon


def write_manifest(addon: Addon, folder: Path) -> None:
    """Write `addon.json`."""
    (folder / ADDON_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(addon), indent=2) + b"\n")


def _template(files: dict[str, bytes]) -> Addon:
    """Take the manifest out of the template's files."""
    try:
        return msgspec.json.decode(files.pop(ADDON_NAME), type=Addon)
    except msgspec.DecodeError as error:
        raise BundleFormatError(
            f"{ARCHIVE} is not of this version of pocket-diffusion ({error}); install it anew"
        ) from None


def _table(component: Component, files: Mapping[str, bytes]) -> LayerTable:
    assert component.layers is not None  # noqa: S101 - the exporter has written it
    return msgspec.json.decode(files[component.layers], type=LayerTable)


def _place_weights(source: TinyVAESource, table: LayerTable, path: Path) -> None:
    with path.open("wb") as file:
        for name, layer in table.layers.items():
            with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinity, which is found here
                numbers: Array = source.tensors[name].read().astype(np.float32, copy=False)
            if not np.isfinite(numbers).all():
                raise TensorMismatchError(f"{source.name}: {name} holds NaN or infinity; fetch it again")
            for stored in layer.stored:
                file.seek(stored.offset)
                file.write(np.ascontiguousarray(store(stored, numbers)).data)


def measuring(component: Component) -> Component:
    """Return the component that measures: the exact one with its activations' magnitudes as another output."""
    spec = TensorSpec(name=MAGNITUDES, dtype="float32", shape=("activations",))
    return msgspec.structs.replace(
        component, graph=component.graph.replace(".onnx", ".measuring.onnx"), outputs=(*component.outputs, spec)
    )


def _without_int8(component: Component) -> Component:
    return msgspec.structs.replace(component, int8=None)


def _certify_both(components: Mapping[str, Component], folder: Path, name: str) -> dict[str, Component]:
    """Measure the scales of both 8-bit graphs, and how exact these are with them.

    A half that makes nothing but zeros, of which no error is a fraction, is returned without its 8-bit graph.

    Raises:
        CheckpointError: what the source of that name computes is not finite.

    """
    pictures = _pictures()
    encoded = _measure("vae_encoder", components["vae_encoder"], folder, pictures, name)
    noise = np.random.default_rng(0).standard_normal(encoded[0].shape, np.float32)
    latents = [*encoded, noise]
    shown = [one.clip(-1, 1) for one in _measure("vae_decoder", components["vae_decoder"], folder, latents, name)]
    certified = {}
    for role, inputs, exact in (("vae_encoder", pictures, encoded), ("vae_decoder", latents, shown)):
        if all(one.any() for one in exact):
            _certify(role, components[role], folder, inputs, exact, name)
            certified[role] = components[role]
        else:
            certified[role] = _without_int8(components[role])
    return certified


def _measure(role: str, component: Component, folder: Path, inputs: list[Array], name: str) -> list[Array]:
    """Write the scales of a half, and return what the exact graph makes of the inputs."""
    session = GraphSession(folder, role, measuring(component), "cpu")
    given, wanted = component.inputs[0].name, component.outputs[0].name
    results = [session.run(**{given: one}) for one in inputs]
    _require_finite(name, *(array for result in results for array in result.values()))
    assert component.int8 is not None and component.int8.scales is not None  # noqa: S101 - the template has them
    largest = np.max([result[MAGNITUDES] for result in results], axis=0)
    tiny = np.finfo(np.float32).tiny
    (folder / component.int8.scales).write_bytes(np.maximum(largest, tiny).astype("<f4").tobytes())
    return [result[wanted] for result in results]


def _require_finite(name: str, *arrays: ArrayLike) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise CheckpointError(f"{name} makes NaN or infinity of plain pictures and noise; fetch it again")


def _certify(role: str, component: Component, folder: Path, inputs: list[Array], exact: list[Array], name: str) -> None:
    """Write the certificate of an 8-bit graph."""
    int8 = component.int8
    assert int8 is not None and component.layers is not None  # noqa: S101 - the template has them
    session = GraphSession(folder, role, msgspec.structs.replace(component, graph=int8.graph), "cpu")
    given, wanted = component.inputs[0].name, component.outputs[0].name
    found = [session.run(**{given: one})[wanted].astype(np.float64) for one in inputs]  # whose squares are finite
    errors = [
        float(np.linalg.norm(ours - one) / np.linalg.norm(one.astype(np.float64)))
        for ours, one in zip(found, exact, strict=True)
    ]
    _require_finite(name, errors)
    table = msgspec.json.decode((folder / component.layers).read_bytes(), type=LayerTable)
    weights = [weight for weight, layer in table.layers.items() if len(layer.shape) > 1]
    certificate = Certificate(
        graph_sha256=sha256_of(folder / int8.graph),
        weights_sha256=sha256_of(folder / component.weights),
        bound=BOUNDS[role],
        relative_error=float(np.median(errors)),
        largest_error=max(errors),
        evaluations=len(errors),
        psnr_db=_psnr(found[0], exact[0]) if role == "vae_decoder" else None,
        what=_WHAT,
        layers=tuple(
            LayerFigure(name=weight, stored="fp32", computed="tensor", storage_error=None, error=None)
            for weight in weights
        ),
    )
    (folder / int8.certificate).write_bytes(msgspec.json.format(msgspec.json.encode(certificate)) + b"\n")


def _psnr(ours: NDArray[np.float64], theirs: Array) -> float:
    """Return the peak signal-to-noise ratio of two pictures in -1…1."""
    return float(10 * np.log10(4 / max(float(np.mean((ours - theirs) ** 2)), _LEAST_ERROR)))


def _pictures() -> list[Array]:
    """Return pictures `[1, 3, 256, 256]` in -1…1 that have all colours, smooth and sharp."""
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (8, 8, 3), np.uint8)
    ways = (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)
    pictures = [np.asarray(Image.fromarray(patches).resize((_SIDE, _SIDE), way), np.float32) for way in ways]
    pictures.append(pictures[0] + random.normal(0, 32, pictures[0].shape).astype(np.float32))
    return [(one.clip(0, 255).transpose(2, 0, 1)[None] / np.float32(127.5) - 1).astype(np.float32) for one in pictures]
