"""Published tensors → weights files, one tensor at a time, wherever the layer tables say that they lie."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import COMPONENTS, sha256_of
from pocket_diffusion.checkpoint.fitting import check_fit
from pocket_diffusion.checkpoint.source import Network, Source
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.errors import InvalidRequestError, TensorMismatchError
from pocket_diffusion.importing.templates import Template
from pocket_diffusion.layers import LayerTable, restore, store
from pocket_diffusion.model.lora import Lora
from pocket_diffusion.model.weights import WORKERS, Room, with_loras, working_bytes

_ROOM = 3 * 2**27
"""Bytes that the workers together may take for layers in float32."""


@dataclass(frozen=True)
class Placed:
    """What is known of weights that were placed."""

    files_sha256: dict[str, str]
    """Of the weights files, by their names in the bundle."""
    sources_sha256: dict[str, str]
    """By their names in the source."""
    int8_errors: dict[str, float]
    """By published name, what rounding a layer's weights to int8 changed of them, relative to them."""


def place_weights(
    checkpoint: Source, template: Template, loras: Sequence[Lora], folder: Path, report: Callable[[str, float], None]
) -> Placed:
    """Write the weights files of all components into a folder.

    Raises:
        TensorMismatchError: a tensor is missing, left over, of another shape, not finite, or too large for the storage.
        CheckpointError: a source cannot be read any more, or became shorter.
        InvalidRequestError: a weight is not finite any more with a LoRA.
        OSError: the disk is full or failing.

    """
    largest = max(working_bytes(layer) for table in template.tables.values() for layer in table.layers.values())
    room = Room(max(_ROOM, largest))
    placings = [_Placing(name, checkpoint, template, loras, folder, room) for name in COMPONENTS]
    _check_fit(placings)
    for placing in placings:
        placing.make_file()
    total = sum(placing.bytes for placing in placings)
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            work = [pool.submit(placing.place, name) for placing in placings for name in placing.table.layers]
            sources = {name: pool.submit(sha256_of, path) for name, path in checkpoint.files.items()}
            done = 0
            for future in as_completed(work):
                done += future.result()
                report(f"placing weights: {done / 1e6:.0f} of {total / 1e6:.0f} MB", 0.9 * done / total)
            report("hashing weights and source", 0.9)
            files = {placing.path.name: pool.submit(sha256_of, placing.path) for placing in placings}
            return Placed(
                files_sha256={name: future.result() for name, future in files.items()},
                sources_sha256={name: future.result() for name, future in sources.items()},
                int8_errors={name: error for placing in placings for name, error in placing.int8_errors.items()},
            )
        except BaseException:  # Ctrl-C, too
            pool.shutdown(cancel_futures=True)
            raise


class _Placing:
    """The weights of one component on their way into its file."""

    def __init__(
        self,
        component: str,
        checkpoint: Source,
        template: Template,
        loras: Sequence[Lora],
        folder: Path,
        room: Room,
    ) -> None:
        networks: dict[str, Network[Any]] = {"text_encoder": checkpoint.text_encoder, "unet": checkpoint.unet}
        network = networks.get(component, checkpoint.vae)
        self.source: str = network.name
        self.tensors: StoredTensors = network.tensors
        self.table: LayerTable = template.tables[component]
        weights = template.components[component].weights
        self.path = folder / weights
        self.bytes = template.records[weights].size
        self.int8_errors: dict[str, float] = {}
        self._component = component
        self._loras = loras
        self._room = room

    def make_file(self) -> None:
        """Make the file at its full size, so that layers may be written in any order."""
        with self.path.open("wb") as file:
            file.truncate(self.bytes)

    def place(self, name: str) -> int:
        """Write all that the file has of a layer, and return the bytes that were written."""
        with self._room.taken(working_bytes(self.table.layers[name])):
            return self._place(name)

    def _place(self, name: str) -> int:
        layer = self.table.layers[name]
        numbers = self._read(name)
        arrays = {}
        for stored in layer.stored:
            try:
                arrays[stored.initializer] = store(stored, numbers)
            except InvalidRequestError as error:
                raise TensorMismatchError(f"{self.source}: in {name}, {error}; import it with --weights fp32") from None
        with self.path.open("r+b", buffering=0) as file:
            for stored in layer.stored:
                _write_all(file.fileno(), arrays[stored.initializer], stored.offset)
        if any(stored.storage == "int8" for stored in layer.stored):
            change = restore(layer, lambda stored: arrays[stored.initializer])
            change -= numbers
            size = float(np.linalg.norm(numbers))
            self.int8_errors[name] = float(np.linalg.norm(change)) / size if size else 0.0
        return sum(array.nbytes for array in arrays.values())

    def _read(self, name: str) -> NDArray[np.float32]:
        """Return a published tensor in float32, with what LoRAs add to it."""
        with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinity, which is found here
            numbers: NDArray[np.float32] = self.tensors[name].read().astype(np.float32, copy=False)
        if not (np.isfinite(numbers.min()) and np.isfinite(numbers.max())):  # a NaN anywhere becomes both
            raise TensorMismatchError(f"{self.source}: {name} holds NaN or infinity; fetch it again")
        return with_loras(self._component, name, numbers, self._loras)


def _write_all(descriptor: int, array: NDArray[Any], offset: int) -> None:
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = os.pwrite(descriptor, left, offset)
        offset, left = offset + count, left[count:]


def _check_fit(placings: Iterable[_Placing]) -> None:
    """Compare all tensors with the layer tables before the work; see `check_fit`."""
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    networks: dict[int, _Placing] = {}
    for placing in placings:  # the halves of the VAE share its tensors
        networks[id(placing.tensors)] = placing
        layers = placing.table.layers.items()
        shapes.setdefault(id(placing.tensors), {}).update({name: layer.shape for name, layer in layers})
    for key, placing in networks.items():
        check_fit(placing.source, "its architecture", placing.tensors, shapes[key])
