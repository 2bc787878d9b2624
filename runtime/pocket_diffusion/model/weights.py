"""Weights as a graph is to have them: the bundle's, changed by LoRAs, in the form that lies in its file."""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.layers import Layer, read_array, restore, store
from pocket_diffusion.model.lora import Lora

Arrays = dict[str, NDArray[Any]]

WORKERS = min(os.cpu_count() or 1, 4)
"""Threads that work on weights, which is worth while because NumPy leaves Python's lock."""
_COPIES = 3
"""So often a layer is in memory in float32 while it is changed: what it was, the change, and a factor of the change or
what is rounded."""
_ROOM = 2**27
"""Bytes that the workers together may take for that. A layer that takes more is changed alone."""


@dataclass(frozen=True, kw_only=True)
class ChangedWeights:
    """The bytes that a component's weights take where they are not the file's: LoRAs change them."""

    size: int = 0
    """As long as the network is loaded."""
    working: int = 0
    """Beside that, while they are made."""


def changed_arrays(
    bundle: Bundle, component: str, loras: Sequence[Lora], check: Callable[[], None] = lambda: None
) -> Arrays:
    """Return the arrays of a component's weights file that LoRAs change, by initializer.

    A few layers are changed at a time, in float32, within the memory that `changed_memory` tells. Int8 weights are
    rounded anew, by new scales. `check` is called before each layer; what it raises ends the work.

    Raises:
        InvalidRequestError: a changed weight is not finite, or more than its storage holds.
        BundleFormatError, BundleDamagedError: see `Bundle.layers` and `read_array`.
        CheckpointError: a LoRA's file is not what it was.

    """
    names = _changed(component, loras)
    if not names:
        return {}
    table = bundle.layers(component)
    names = {name: users for name, users in names.items() if name in table.layers}  # a shallow graph has some alone
    weights = bundle.path(bundle.manifest.component(component).weights)
    room = Room(_room_for(table.layers[name] for name in names))

    def change(name: str) -> Arrays:
        check()
        layer, users = table.layers[name], names[name]
        with room.taken(working_bytes(layer)):
            changed = with_loras(component, name, restore(layer, partial(read_array, weights, layer)), users)
            try:
                return {stored.initializer: store(stored, changed) for stored in layer.stored}
            except InvalidRequestError as error:
                raise _refused(users, name, error) from None

    with ThreadPoolExecutor(WORKERS) as pool:
        return {initializer: array for arrays in pool.map(change, names) for initializer, array in arrays.items()}


def with_loras(component: str, name: str, weights: NDArray[np.float32], loras: Iterable[Lora]) -> NDArray[np.float32]:
    """Return a published weight of a component, changed by LoRAs in their order; it may be the array that was given.

    Raises:
        InvalidRequestError: it is not finite any more.
        CheckpointError: a LoRA's file is not what it was.

    """
    users = [lora for lora in loras if name in lora.changes(component)]
    with np.errstate(over="ignore", invalid="ignore"):  # which the next lines tell better
        for lora in users:
            weights = lora.changes(component)[name].apply(weights, lora.strength(component))
            lora.file.check_unchanged()  # of what was read just now, too
    if users and not np.isfinite(weights).all():
        raise _refused(users, name, "weights are not finite any more")
    return weights


def _refused(loras: Iterable[Lora], name: str, why: object) -> InvalidRequestError:
    used = ", ".join(lora.file.name for lora in loras)
    return InvalidRequestError(f"LoRA {used}: in {name}, {why}; lower the scale")


def changed_memory(bundle: Bundle, component: str, loras: Sequence[Lora]) -> ChangedWeights:
    """Return the memory of those arrays.

    Raises:
        BundleFormatError, BundleDamagedError: see `Bundle.layers`.

    """
    names = _changed(component, loras)
    if not names:
        return ChangedWeights()
    table = bundle.layers(component).layers
    layers = [table[name] for name in names if name in table]
    return ChangedWeights(
        size=sum(layer.bytes_of(stored) for layer in layers for stored in layer.stored),
        working=min(_room_for(layers), sum(map(working_bytes, layers))),
    )


def working_bytes(layer: Layer) -> int:
    """Return the bytes that a layer takes while it is made in float32."""
    return _COPIES * 4 * math.prod(layer.shape)


def _room_for(layers: Iterable[Layer]) -> int:
    """Return the bytes that layers may take at once while they are changed: the largest has to fit."""
    return max([_ROOM, *map(working_bytes, layers)])


class Room:
    """Memory that threads share: who wants more than is left waits."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Take so many bytes, no more than there are in all, and give them back."""
        with self._changed:
            self._changed.wait_for(lambda: size <= self._left)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


def _changed(component: str, loras: Sequence[Lora]) -> Mapping[str, list[Lora]]:
    """Return the LoRAs that change each layer, in their order."""
    names: dict[str, list[Lora]] = {}
    for lora in loras:
        for name in lora.changes(component):
            names.setdefault(name, []).append(lora)
    return names
