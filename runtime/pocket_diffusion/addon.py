"""What a bundle may have beside its own networks: a folder in it with a manifest of its own, `addon.json`.

A tiny VAE is one: it takes the place of the VAE where it is asked for, and draws previews. The bundle's own manifest
does not know of it, so that one can be added to a bundle that is there, or taken away with its folder.
"""

import os
import reprlib
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from pocket_diffusion.bundle import (
    LARGEST_MANIFEST,
    Bundle,
    Component,
    Few,
    FileRecord,
    Int8Graph,
    LatentSpec,
    Provenance,
    Version,
    axes_fault,
    is_inside,
)
from pocket_diffusion.errors import BundleFormatError, InvalidRequestError
from pocket_diffusion.files import read_regular
from pocket_diffusion.strict import Strict

TINY_VAE = "tiny_vae"
"""The folder of a tiny VAE, and the kind of add-on that it is."""
TINY = "tiny"
"""What a user calls it in the place of the bundle's own VAE."""
ADDON_NAME = "addon.json"
ROLES = ("vae_encoder", "vae_decoder")
_TAKEN_AND_GIVEN = {"vae_encoder": ("picture", "latents"), "vae_decoder": ("latents", "picture")}
"""The one input and the one output of each."""


class Addon(Strict, frozen=True):
    """All that the runtime must know of an add-on; the content of `addon.json`. Paths begin in its folder."""

    format_version: Literal[1]
    kind: Literal["tiny_vae"]
    onnxruntime: Version
    """The oldest version of ONNX Runtime that has the operators of the graphs."""
    channels: Few
    """Of the latents that it speaks."""
    downscale: Few
    """Pixels per latent along a side."""
    vae_encoder: Component
    vae_decoder: Component
    provenance: Provenance
    files: dict[str, FileRecord]
    """Every file of the folder but the manifest itself."""

    def component(self, role: str) -> Component:
        """Return one of `ROLES`."""
        component: Component = getattr(self, role)
        return component


def read_addon(root: Path) -> Addon | None:
    """Read and check the manifest of a bundle's tiny VAE, but none of the files beside it; None where there is none.

    Raises:
        BundleFormatError: with the field that is not understood, the component that is no half of a VAE, or the file
            that lies outside the folder.

    """
    path = root / TINY_VAE / ADDON_NAME

    def refuse(why: str) -> NoReturn:
        raise BundleFormatError(f"{path}: {why}; add it again with `pocket-diffusion add`, or remove its folder")

    try:
        addon = msgspec.json.decode(read_regular(path, LARGEST_MANIFEST, inside=root), type=Addon)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        refuse(f"cannot be read ({error.strerror})")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse(f"not understood: {error}")
    for name in addon.files:
        if not is_inside(name):
            refuse(f"names a file outside its folder: {name!r}")
    for role in ROLES:
        fault = _fault(role, addon.component(role))
        if fault:
            refuse(fault)
    for name in (file for role in ROLES for file in addon.component(role).files):
        if name not in addon.files:
            refuse(f"uses {name!r} but does not list it under files")
    return addon


def _fault(role: str, component: Component) -> str | None:
    """Return why a component is no half of a VAE, if so."""
    for taken, specs in zip(_TAKEN_AND_GIVEN[role], (component.inputs, component.outputs), strict=True):
        names = [spec.name for spec in specs]
        if names != [taken]:
            return f"{role} has {', '.join(names)[:100] or 'nothing'} where {taken!r} is wanted"
    if any(one is not None and one.shallow is not None for one in (component, component.int8)):
        return f"{role} has a shallow graph, which is for a U-Net"
    return axes_fault(role, component)


def files_of_tiny_vae(root: Path) -> tuple[str, ...]:
    """Return the names of all files that a bundle's tiny VAE consists of, in the bundle; none where there is none.

    Raises:
        BundleFormatError: see `read_addon`.

    """
    addon = read_addon(root)
    return () if addon is None else tuple(map(_below, (ADDON_NAME, *addon.files)))


def has_tiny_vae(bundle: Bundle) -> bool:
    """Tell whether there is a tiny VAE with a bundle.

    Raises:
        BundleFormatError: see `read_addon`.

    """
    return read_addon(bundle.root) is not None


def with_tiny_vae(bundle: Bundle) -> Bundle:
    """Return a bundle with the tiny VAE that lies with it in the place of its own.

    Raises:
        InvalidRequestError: there is none, or it speaks other latents.
        BundleFormatError: see `read_addon`.
        BundleDamagedError: a file of it is missing or has the wrong size.

    """
    addon = read_addon(bundle.root)
    if addon is None:
        raise InvalidRequestError(
            f"{bundle.root} has no tiny VAE; add one with `pocket-diffusion add {bundle.root} --tiny-vae SOURCE`, or "
            "draw with the bundle's own"
        )
    check_latents(addon, bundle.manifest.latents)
    components = {role: _moved(addon.component(role)) for role in ROLES}
    listed = with_files_of(addon, bundle)
    listed.check_files(*map(_below, addon.files))
    oldest = max(addon.onnxruntime, bundle.manifest.onnxruntime, key=_numbers)
    return Bundle(bundle.root, msgspec.structs.replace(listed.manifest, **components, onnxruntime=oldest))


def with_files_of(addon: Addon, bundle: Bundle) -> Bundle:
    """Return a bundle that lists the files of its add-on too."""
    files = bundle.manifest.files | {_below(name): record for name, record in addon.files.items()}
    return Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, files=files))


def choose_vae(asked: str | os.PathLike[str] | None, bundle: Bundle) -> Bundle:
    """Return a bundle with the VAE that is asked for: its own, or `tiny`.

    Raises:
        InvalidRequestError: another one, or no tiny VAE is there; see `with_tiny_vae`.
        BundleFormatError, BundleDamagedError: likewise.

    """
    if asked is None:
        return bundle
    if os.fspath(asked) != TINY:
        raise InvalidRequestError(
            f"vae {reprlib.repr(os.fspath(asked))} is not known; give {TINY!r} or none: another whole VAE becomes part "
            "of a bundle when that is made, by `pocket-diffusion import SOURCE OUTPUT --vae FILE`"
        )
    return with_tiny_vae(bundle)


def check_latents(addon: Addon, wanted: LatentSpec) -> None:
    """Refuse a tiny VAE that speaks other latents than a bundle's.

    Raises:
        InvalidRequestError: it does.

    """
    if (addon.channels, addon.downscale) != (wanted.channels, wanted.downscale):
        raise InvalidRequestError(
            f"the tiny VAE {addon.provenance.source} makes latents of {addon.channels} channels, one for "
            f"{addon.downscale}x{addon.downscale} pixels; this model's have {wanted.channels} channels, one for "
            f"{wanted.downscale}x{wanted.downscale}; give one that was made for this model"
        )


def _numbers(version: Version) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _moved(component: Component) -> Component:
    """Return a component of the add-on with its files named as the bundle's are."""
    int8 = component.int8
    return msgspec.structs.replace(
        component,
        graph=_below(component.graph),
        weights=_below(component.weights),
        layers=None if component.layers is None else _below(component.layers),
        int8=None if int8 is None else _int8_moved(int8),
    )


def _int8_moved(int8: Int8Graph) -> Int8Graph:
    return msgspec.structs.replace(
        int8,
        graph=_below(int8.graph),
        certificate=_below(int8.certificate),
        scales=None if int8.scales is None else _below(int8.scales),
    )


def _below(name: str) -> str:
    return f"{TINY_VAE}/{name}"
