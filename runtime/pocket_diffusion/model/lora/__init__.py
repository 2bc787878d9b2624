"""LoRA files: what they change in a bundle's networks, and how much of it is wanted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import msgspec

from pocket_diffusion.bundle import SHALLOW_UNET, Bundle
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError, InvalidRequestError
from pocket_diffusion.files import open_regular
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.model.file_hash import FileHash, FileState
from pocket_diffusion.model.lora.adapter_settings import AdapterSettings, settings_of_diffusers, settings_of_peft
from pocket_diffusion.model.lora.changes import Change
from pocket_diffusion.model.lora.fitting import Changes, read_changes

CHANGEABLE = ("text_encoder", "unet")
"""The networks that LoRAs change."""
MAX_SCALE = 100.0
_SETTINGS_NAME, _LARGEST_SETTINGS = "adapter_config.json", 2**20
_SPEC = re.compile(r"(.+?)(?::([+-]?\d*\.?\d+))?(?::([+-]?\d*\.?\d+))?", re.DOTALL | re.ASCII)


@dataclass(frozen=True)
class LoraSpec:
    """A LoRA file, and how much of it is wanted: 1 is as it was trained, 0 nothing."""

    path: Path
    scale: float = 1.0
    """Of the U-Net's layers, and of the text encoder's where those have no scale of their own."""
    text_encoder_scale: float | None = None

    def __post_init__(self) -> None:
        """Refuse scales that make no sense.

        Raises:
            InvalidRequestError: that is so.

        """
        for scale in (self.scale, self.text_encoder_scale):
            if scale is not None and not abs(scale) <= MAX_SCALE:  # NaN, too
                raise InvalidRequestError(
                    f"the scale of LoRA {self.path.stem} must be a number from {-MAX_SCALE:g} to {MAX_SCALE:g}, "
                    f"not {scale:g}"
                )

    @classmethod
    def of(cls, given: "str | PathLike[str] | LoraSpec") -> "LoraSpec":
        """Read `FILE`, `FILE:SCALE` or `FILE:UNET_SCALE:TEXT_ENCODER_SCALE`; a path that is no text is taken whole.

        Raises:
            InvalidRequestError: a scale that makes no sense, or no file.

        """
        if isinstance(given, LoraSpec):
            return given
        if not isinstance(given, str):
            return cls(Path(fspath(given)))
        match = _SPEC.fullmatch(given)
        if match is None:
            raise InvalidRequestError("a LoRA needs a file, such as style.safetensors:0.8; give its path")
        path, *scales = match.groups()
        return cls(Path(path), *(float(scale) for scale in scales if scale is not None))


@dataclass(frozen=True)
class LoraFile:
    """A LoRA that fits a bundle."""

    name: str
    """The file's name, without its ending."""
    path: Path
    state: FileState
    """From before its numbers were checked."""
    hash: FileHash
    changes: Changes

    def check_unchanged(self) -> None:
        """Refuse a file that was overwritten since it was checked: its numbers were not, and its hash is another.

        Raises:
            CheckpointError: that is so, or the file is gone.

        """
        try:
            unchanged = FileState.of(self.path) == self.state
        except OSError:
            unchanged = False
        if not unchanged:
            raise CheckpointError(f"LoRA {self.name}: the file has changed since it was read; give it once more")


@dataclass(frozen=True)
class Lora:
    """A LoRA in use."""

    file: LoraFile
    scale: float = 1.0
    text_encoder_scale: float | None = None

    def strength(self, component: str) -> float:
        """Return how much of it a network gets."""
        own = self.text_encoder_scale if component == "text_encoder" else None
        return self.scale if own is None else own

    def __str__(self) -> str:
        """Return what it is and how much of it is used, for a bundle's provenance."""
        scales = [f"{self.strength(component):g}" for component in ("unet", "text_encoder")]
        return f"LoRA {self.file.name} ({self.file.hash.short}) at {scales[0]}, in the text encoder at {scales[1]}"

    def changes(self, component: str) -> Mapping[str, Change]:
        """Return what it does to a network, by published name; of a shallow graph, what it does to the whole."""
        whole = "unet" if component == SHALLOW_UNET else component
        return self.file.changes.get(whole, {}) if self.strength(component) else {}


def read_lora(path: Path, bundle: Bundle) -> LoraFile:
    """Read and check a LoRA file for a bundle; see `read_lora_for`.

    Raises:
        CheckpointError, InvalidRequestError: see there.
        BundleFormatError: the bundle does not tell where its weights lie.

    """
    return read_lora_for(path, {component: bundle.layers(component) for component in CHANGEABLE})


def read_lora_for(path: Path, tables: Mapping[str, LayerTable]) -> LoraFile:
    """Read and check a LoRA file for networks with these layers; its numbers are read again when they are applied.

    Raises:
        CheckpointError: the file is not there, or cannot be read; see `read_tensor_file`.
        InvalidRequestError: it is no LoRA, or does not fit; see `read_changes`.

    """
    read = read_tensor_file(path)
    state = FileState.of(path)
    try:
        settings = settings_of_diffusers(read.metadata)
        if not settings and any(key.startswith("base_model.model.") for key in read.tensors):
            settings = _settings_beside(path)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidRequestError(
            f"LoRA {path.stem}: its settings, which hold alpha, are not understood ({error}); fetch it again"
        ) from None
    changes = read_changes(path.stem, read.tensors, tables, settings)
    return LoraFile(path.stem, path, state, FileHash.of(path), changes)


def _settings_beside(path: Path) -> dict[str, AdapterSettings]:
    """Return the settings in PEFT's file, which are of both networks."""
    try:
        with open_regular(path.parent / _SETTINGS_NAME) as file:
            settings = settings_of_peft(file.read(_LARGEST_SETTINGS))
    except OSError:
        return {}
    return dict.fromkeys(CHANGEABLE, settings)
