"""Weights as a graph is to have them: the bundle's, changed by LoRAs, in the form that lies in its file."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.layers import array_in, restore, store
from pocket_diffusion.model.lora import Lora

Arrays = dict[str, NDArray[Any]]


def changed_arrays(bundle: Bundle, component: str, loras: Sequence[Lora]) -> Arrays:
    """Return the arrays of a component's weights file that LoRAs change, by initializer.

    Layers are changed one after another, in float32: the memory is that of the result and of the largest layer. Int8
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
    arrays: Arrays = {}
    for name, users in names.items():
        layer = table.layers[name]
        changed = restore(layer, partial(array_in, weights, layer))
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # which the next lines tell better
                for lora in users:
                    changed = lora.changes(component)[name].apply(changed, lora.strength(component))
            if not np.isfinite(changed).all():
                raise InvalidRequestError("weights are not finite any more")
            arrays.update((stored.initializer, store(stored, changed)) for stored in layer.stored)
        except InvalidRequestError as error:
            used = ", ".join(lora.file.name for lora in users)
            raise InvalidRequestError(f"LoRA {used}: in {name}, {error}; lower the scale") from None
    return arrays


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
