"""Files of weights written without PyTorch and without the safetensors package: for tests that run in their absence."""

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
_STORAGES = {"float64": "Double", "float32": "Float", "float16": "Half", "int64": "Long", "int32": "Int"}
Arrays = Mapping[str, NDArray[Any]]


def with_header(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file from its header, an object or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write_safetensors(path: Path, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> Path:
    """Write arrays as safetensors."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": _SAFETENSORS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    path.write_bytes(with_header(header, data))
    return path


def write_zip(path: Path, content: bytes, *storages: bytes) -> Path:
    """Write what `torch.save` would, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for number, storage in enumerate(storages):
            archive.writestr(f"archive/data/{number}", storage)
    return path


def tensor_opcodes(
    key: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, storage: str = "Float"
) -> bytes:
    """The opcodes that describe a tensor as PyTorch's pickles do."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (b"(" + _text("storage") + f"ctorch\n{storage}Storage\n".encode() + _text(key) + _text("cpu") + _int(count))
        + (b"tQ" + _int(offset) + _tuple(shape) + _tuple(strides) + b"\x89}tR")
    )


def write_torch_file(path: Path, arrays: Arrays) -> Path:
    """Write arrays as `torch.save` would."""
    items = b""
    for number, (name, array) in enumerate(arrays.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = _STORAGES[array.dtype.name]
        items += _text(name) + tensor_opcodes(str(number), array.size, array.shape, strides, storage=storage) + b"s"
    storages = [array.tobytes("A") for array in arrays.values()]
    return write_zip(path, b"\x80\x02}" + items + b".", *storages)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _int(number: int) -> bytes:
    return f"L{number}L\n".encode()


def _tuple(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_int, numbers)) + b"t"


def make_arrays(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Arrays of several types and shapes."""
    generator = np.random.default_rng(seed)
    return {
        "matrix": generator.standard_normal((3, 5), dtype=np.float32),
        "halves": generator.standard_normal((2, 3, 4)).astype(np.float16),
        "doubles": generator.standard_normal(7),
        "ids": np.arange(5),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
