"""LoRA files for tests: tensors in memory and on disk, and networks' layers without networks."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.layers import Layer, LayerTable, Stored
from pocket_diffusion.model.lora import CHANGEABLE


@dataclass(frozen=True)
class Numbers:
    """A tensor as a file would have it."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self) -> NDArray[Any]:
        return self.array


def table(**shapes: tuple[int, ...]) -> LayerTable:
    """Return a table of layers of these shapes, by names with `__` for a dot."""
    layers, offset = {}, 0
    for name, shape in shapes.items():
        published = name.replace("__", ".")
        layers[published] = Layer(shape=shape, stored=(Stored(initializer=published, offset=offset),))
        offset += 4 * int(np.prod(shape))
    return LayerTable(layers=layers)


def write_safetensors(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write float32, float16 and whole numbers as the safetensors library would, which the runtime does without."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    content = b""
    for name, array in arrays.items():
        start = len(content)
        content += array.tobytes()
        dtype = {"f": "F", "i": "I"}[array.dtype.kind] + str(8 * array.itemsize)
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, len(content)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def random_lora(
    bundle: Bundle, seed: int = 0, components: Iterable[str] = CHANGEABLE
) -> dict[str, NDArray[np.float32]]:
    """Return a LoRA of rank 2, in kohya's style, of each attention layer of some networks of a bundle."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for component in components:
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[component]
        for name, layer in bundle.layers(component).layers.items():
            module = name.removesuffix(".weight")
            if module.endswith(("to_q", "to_v", "q_proj", "v_proj")):
                outputs, inputs = layer.shape
                key = f"{prefix}_{module.replace('.', '_')}"
                for part, shape in (("down", (2, inputs)), ("up", (outputs, 2))):
                    tensors[f"{key}.lora_{part}.weight"] = generator.normal(size=shape).astype(np.float32) * 0.3
    return tensors
