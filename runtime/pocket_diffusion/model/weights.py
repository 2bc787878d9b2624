"""Weights as a graph is to have them: the bundle's, changed by LoRAs, in the form that lies in its file."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.layers import array_in, restore, store
from pocket_diffusion.model.lora import Lora

Arrays = dict[str, NDArray[Any]]

_WORKERS = min(os.cpu_count() or 1, 4)
"""NumPy leaves Python's lock. More workers would hold more layers in float32 at once."""


def changed_arrays(bundle: Bundle, component: str, loras: Sequence[Lora]) -> Arrays:
    """Return the arrays of a component's weights file that LoRAs change, by initializer.

    A few layers are changed at a time, in float32: the memory is that of the result and of the largest layers. Int8
    weights are rounded anew, by new scales.

    Raises:
        InvalidRequestError: a changed weight is not finite, or more than its storage holds.
        BundleFormatError, BundleDamagedError: see `Bundle.layers` and `Bundle.check_files`.
        CheckpointError: a LoRA's file is not what it was.

    """
    names = _changed(component, loras)
    if not names:
        return {}
    table = bundle.layers(component)
    weights_file = bundle.manifest.component(component).weights
    bundle.check_files(weights_file)  # a mapped file that has become shorter would end the process
    weights = np.memmap(bundle.path(weights_file), np.uint8, "r")

    def change(name: str) -> Arrays:
        layer, users = table.layers[name], names[name]
        changed = with_loras(component, name, restore(layer, partial(array_in, weights, layer)), users)
        try:
            return {stored.initializer: store(stored, changed) for stored in layer.stored}
        except InvalidRequestError as error:
            raise _refused(users, name, error) from None

    with ThreadPoolExecutor(_WORKERS) as pool:
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
    if users and not np.isfinite(weights).all():
        raise _refused(users, name, "weights are not finite any more")
    return weights


def _refused(loras: Iterable[Lora], name: str, why: object) -> InvalidRequestError:
    used = ", ".join(lora.file.name for lora in loras)
    return InvalidRequestError(f"LoRA {used}: in {name}, {why}; lower the scale")


def changed_bytes(bundle: Bundle, component: str, loras: Sequence[Lora]) -> int:
    """Return the size of those arrays."""
    names = _changed(component, loras)
    if not names:
        return 0
    layers = bundle.layers(component).layers
    return sum(layers[name].bytes_of(stored) for name in names for stored in layers[name].stored)


def _changed(component: str, loras: Sequence[Lora]) -> Mapping[str, list[Lora]]:
    """Return the LoRAs that change each layer, in their order."""
    names: dict[str, list[Lora]] = {}
    for lora in loras:
        for name in lora.changes(component):
            names.setdefault(name, []).append(lora)
    return names
