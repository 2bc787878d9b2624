"""A tensor that lies in somebody's file: described first, read when its numbers are needed."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.errors import CheckpointError

SIZES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
}
"""The bytes of a number of each type; the types are NumPy's and bfloat16, the upper half of a float32."""
MOST_SIDES = 8
"""No weight has more."""
_SHOWN = 100  # how much of a name from the file an error shows
# A view of a larger storage is read with the gaps between its numbers. So many may be skipped: the memory for a tensor
# must not be the memory for a file.
_GAPS, _SPARE_NUMBERS = 4, 2**20

_FARTHEST = 2**48
"""More than any file has: also of what an empty tensor, or an axis of one number, does not use."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's numbers lie, little-endian, and what they are."""

    name: str
    """As the file has it."""
    path: Path
    dtype: str
    """One of `SIZES`."""
    shape: tuple[int, ...]
    offset: int
    """Of the first number, from the start of the file, in bytes."""
    strides: tuple[int, ...]
    """From one number to the next along each axis, in numbers."""

    def __post_init__(self) -> None:
        """Refuse what would cost more memory than the numbers in the file.

        Raises:
            ValueError: says why.

        """
        if len(self.shape) > MOST_SIDES or len(self.strides) != len(self.shape):
            raise ValueError(f"a tensor has {len(self.shape)} sides and {len(self.strides)} strides")
        numbers = (self.offset, *self.shape, *self.strides)
        if min(numbers) < 0 or max(numbers) > _FARTHEST or self.span < self.size:
            raise ValueError("a tensor claims more than it holds")
        if self.span > _GAPS * self.size + _SPARE_NUMBERS:
            raise ValueError("a tensor is spread thin over its storage")

    @property
    def ndim(self) -> int:
        """How many sides it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def is_floating_point(self) -> bool:
        """Whether its numbers are floating-point numbers."""
        return "float" in self.dtype

    @property
    def span(self) -> int:
        """How many numbers of the file lie between its first and its last, both counted."""
        if not self.size:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))

    def as_matrix(self) -> "StoredTensor":
        """Return a 1x1 convolution `[out, in, 1, 1]` as the linear layer `[out, in]` that it is; others as they are."""
        if self.shape[2:] != (1, 1):
            return self
        return replace(self, shape=self.shape[:2], strides=self.strides[:2])

    def rows(self, begin: int, end: int) -> "StoredTensor":
        """Return the part that has the entries `begin` to `end` (not counted) of the first axis."""
        offset = self.offset + begin * self.strides[0] * SIZES[self.dtype]
        return replace(self, shape=(end - begin, *self.shape[1:]), offset=offset)

    def read(self) -> NDArray[Any]:
        """Return the numbers, in an array of their own: bfloat16 as float32, all else as it is stored.

        The file is read and not mapped: one that becomes shorter meanwhile must not end the process.

        Raises:
            CheckpointError: the file cannot be read, has become shorter, or the memory does not suffice.

        """
        what = f"{self.path}: {self.name[:_SHOWN]!r}"
        kind = np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype).newbyteorder("<")
        try:
            flat = np.empty(self.span, kind)
            self._fill(flat)
            strides = tuple(step * kind.itemsize for step in self.strides)
            array = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, self.shape, strides))
            array = array.reshape(self.shape)  # of a scalar, the line above makes a row
            if self.dtype != "bfloat16":
                return array
            wide = array.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        except EOFError:
            raise CheckpointError(
                f"{what} is cut off: the file became shorter while it was read; fetch it again"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{what} cannot be read: {error.strerror}; fetch it again") from None
        except (MemoryError, ValueError) as error:
            raise CheckpointError(f"{what} is too large for this machine's memory ({error})") from None

    def _fill(self, flat: NDArray[Any]) -> None:
        empty = flat.view(np.uint8).data
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            while empty:
                count = file.readinto(empty)
                if not count:
                    raise EOFError
                empty = empty[count:]


StoredTensors = dict[str, StoredTensor]


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor whose last axis varies fastest, in numbers."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
