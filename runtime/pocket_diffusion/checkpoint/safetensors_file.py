"""The safetensors format: a JSON header that says where each tensor lies, then the numbers.

https://github.com/huggingface/safetensors#format; its rules are held to, so that two readers never see two models in
one file: no name twice, no number in two tensors, no byte that belongs to none.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from pocket_diffusion.checkpoint.stored_tensor import MOST_SIDES, SIZES, StoredTensor, StoredTensors, contiguous
from pocket_diffusion.errors import CheckpointError, UnsupportedModelError

_MAX_HEADER_BYTES = 16 * 2**20  # SD 1.5's is 0.15 MB; parsed, one may take twenty times its size
_SHOWN = 100  # how much of a name from the file an error shows
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}
_QUANTISED = ("F8_", "F6_", "F4")  # the beginnings of the names of floats of 8 bits and fewer


def read_safetensors(path: Path) -> tuple[StoredTensors, dict[str, str]]:
    """Return a file's tensors and its free-text metadata.

    Raises:
        UnsupportedModelError: numbers are stored in 8 bits or fewer.
        CheckpointError: the file is damaged, or its header breaks the format's rules.

    """
    header, start, end = _read_header(path)
    metadata = header.pop("__metadata__", {})
    try:
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("its metadata are not texts by name")
        tensors = {name: _describe(path, name, entry, start) for name, entry in header.items()}
        position = start
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.size)):
            if tensor.offset != position:
                raise ValueError(f"there is a hole or an overlap before {_shown(tensor.name)}")
            position += tensor.size * SIZES[tensor.dtype]
        if position != end:
            raise ValueError(f"its tensors end at byte {position:,}, the file at {end:,}")
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: {error}; fetch it again") from None
    return tensors, metadata


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header, where the numbers start, and where the file ends."""

    def refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            double, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise CheckpointError(f"{path} is damaged: its header names {_shown(double)} twice; fetch it again")
        return content

    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, end - 8):
            raise CheckpointError(f"{path} is damaged: its header claims {length:,} bytes; fetch it again")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=refuse_doubles)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: its header is not JSON ({error}); fetch it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its header is no object; fetch it again")
    return header, 8 + length, end


def _describe(path: Path, name: str, entry: Any, start: int) -> StoredTensor:  # noqa: ANN401 - whatever the JSON holds
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or len(shape) > MOST_SIDES:
            raise ValueError
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"its header does not say what {_shown(name)} is") from None
    if dtype.startswith(_QUANTISED):
        raise UnsupportedModelError(
            f"{path}: {_shown(name)} is stored as {dtype[:_SHOWN]}, with too few bits to be computed with; get the "
            "float16 or bfloat16 file of the model"
        )
    if dtype not in _DTYPES:
        raise ValueError(f"{_shown(name)} holds numbers of an unknown type, {_shown(dtype)}")
    if end - begin != math.prod(shape) * SIZES[_DTYPES[dtype]]:
        raise ValueError(f"{_shown(name)} has {end - begin:,} bytes, which its shape is not made of")
    sides = tuple(shape)
    return StoredTensor(name, path, _DTYPES[dtype], sides, start + begin, contiguous(sides))


def _shown(name: str) -> str:
    return ascii(name[:_SHOWN])
