"""Published tensors → weights files, one tensor at a time, wherever the layer tables say that they lie."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import COMPONENTS, sha256_of
from pocket_diffusion.checkpoint.source import Source
from pocket_diffusion.checkpoint.stored_tensor import StoredTensor, StoredTensors
from pocket_diffusion.errors import InvalidRequestError, TensorMismatchError
from pocket_diffusion.importing.templates import Template
from pocket_diffusion.layers import Layer, LayerTable, store
from pocket_diffusion.model.lora import Lora
from pocket_diffusion.model.weights import with_loras

_WORKERS = min(os.cpu_count() or 1, 4)
"""NumPy and hashing leave Python's lock. More workers would hold more tensors in memory at once."""
_NAMED = 5
"""So many faults are told of many."""
_SHOWN = 100
"""How much of a name from the file an error shows."""


@dataclass(frozen=True)
class Hashes:
    """The sha256 of files, by their names in the bundle and in the source."""

    of_files: dict[str, str]
    of_sources: dict[str, str]


def place_weights(
    checkpoint: Source, template: Template, loras: Sequence[Lora], folder: Path, report: Callable[[str, float], None]
) -> Hashes:
    """Write the weights files of all components into a folder.

    Raises:
        TensorMismatchError: a tensor is missing, left over, of another shape, not finite, or too large for the storage.
        CheckpointError: a source cannot be read any more, or became shorter.
        InvalidRequestError: a weight is not finite any more with a LoRA.
        OSError: the disk is full or failing.

    """
    placings = [_Placing(name, checkpoint, template, loras, folder) for name in COMPONENTS]
    _check_fit(placings)
    for placing in placings:
        placing.make_file()
    total = sum(placing.bytes for placing in placings)
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            sources = {name: pool.submit(sha256_of, path) for name, path in checkpoint.files.items()}
            work = [pool.submit(placing.place, name) for placing in placings for name in placing.table.layers]
            done = 0
            for future in as_completed(work):
                done += future.result()
                report(f"placing weights: {done / 1e6:.0f} of {total / 1e6:.0f} MB", 0.9 * done / total)
            report("hashing weights and source", 0.9)
            files = {placing.path.name: pool.submit(sha256_of, placing.path) for placing in placings}
            return Hashes(
                of_files={name: future.result() for name, future in files.items()},
                of_sources={name: future.result() for name, future in sources.items()},
            )
        except BaseException:  # Ctrl-C, too
            pool.shutdown(cancel_futures=True)
            raise


class _Placing:
    """The weights of one component on their way into its file."""

    def __init__(
        self, component: str, checkpoint: Source, template: Template, loras: Sequence[Lora], folder: Path
    ) -> None:
        network = getattr(checkpoint, component.partition("_")[0] if component.startswith("vae") else component)
        self.source: str = network.name
        self.tensors: StoredTensors = network.tensors
        self.table: LayerTable = template.tables[component]
        weights = template.manifest.component(component).weights
        self.path = folder / weights
        self.bytes = template.manifest.files[weights].size
        self._component = component
        self._loras = loras

    def make_file(self) -> None:
        """Make the file at its full size, so that layers may be written in any order."""
        with self.path.open("wb") as file:
            file.truncate(self.bytes)

    def place(self, name: str) -> int:
        """Write all that the file has of a layer, and return how many bytes that were."""
        layer = self.table.layers[name]
        numbers = self._read(name)
        written = 0
        with self.path.open("r+b", buffering=0) as file:
            for stored in layer.stored:
                try:
                    array = store(stored, numbers)
                except InvalidRequestError as error:
                    raise TensorMismatchError(
                        f"{self.source}: in {name}, {error}; import it with --weights fp32"
                    ) from None
                written += _write_all(file.fileno(), array, stored.offset)
        return written

    def _read(self, name: str) -> NDArray[np.float32]:
        """Return a published tensor in float32, with what LoRAs add to it."""
        with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinity, which is found here
            numbers: NDArray[np.float32] = self.tensors[name].read().astype(np.float32, copy=False)
        if not (np.isfinite(numbers.min()) and np.isfinite(numbers.max())):  # a NaN anywhere becomes both
            raise TensorMismatchError(f"{self.source}: {name} holds NaN or infinity; fetch it again")
        return with_loras(self._component, name, numbers, self._loras)


def _write_all(descriptor: int, array: NDArray[np.generic], offset: int) -> int:
    """Write an array at an offset, and return its size in bytes."""
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = os.pwrite(descriptor, left, offset)
        offset, left = offset + count, left[count:]
    return array.nbytes


def _check_fit(placings: Iterable[_Placing]) -> None:
    """Compare all tensors with the layer tables before the work.

    Raises:
        TensorMismatchError: with the first few faults, by the tensors' published names.

    """
    layers: dict[int, dict[str, Layer]] = {}
    networks: dict[int, _Placing] = {}
    for placing in placings:  # the halves of the VAE share its tensors
        networks[id(placing.tensors)] = placing
        layers.setdefault(id(placing.tensors), {}).update(placing.table.layers)
    for key, placing in networks.items():
        faults = sorted(_faults(placing.tensors, layers[key]))
        if faults:
            more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
            raise TensorMismatchError(
                f"{placing.source} does not fit its architecture: {'; '.join(faults[:_NAMED])}{more}; fetch it again"
            )


def _faults(tensors: StoredTensors, layers: dict[str, Layer]) -> list[str]:
    return [
        *(f"{name} is missing" for name in layers.keys() - tensors.keys()),
        *(f"{name[:_SHOWN]!r} belongs nowhere" for name in tensors.keys() - layers.keys()),
        *(
            fault
            for name in layers.keys() & tensors.keys()
            if (fault := _fault(name, tensors[name], layers[name])) is not None
        ),
    ]


def _fault(name: str, tensor: StoredTensor, layer: Layer) -> str | None:
    if tensor.shape != layer.shape:
        return f"{name} is {list(tensor.shape)}, not {list(layer.shape)}"
    if not tensor.is_floating_point:
        return f"{name} holds {tensor.dtype}, not floating-point numbers"
    return None
