"""By what a file of weights is known, and whether it is still the one that was read."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_BLOCK = 2**20


class FileState(NamedTuple):
    """What changes when a file is overwritten, and costs nothing to look at."""

    size: int
    """In bytes."""
    modified: int
    """In nanoseconds since 1970."""

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Look at a file.

        Raises:
            OSError: it is not there.

        """
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class FileHash:
    """The sha256 of a file, and what A1111 and model-sharing sites call its hash."""

    sha256: str
    short: str
    """12 hexadecimal digits: of a safetensors file, of its numbers alone, so that other metadata do not change it."""

    @classmethod
    def of(cls, path: Path) -> "FileHash":
        """Hash a file."""
        whole, numbers = hashlib.sha256(), hashlib.sha256()
        with path.open("rb") as file:
            if path.suffix.lower() == ".safetensors":
                length = file.read(8)
                whole.update(length)
                whole.update(file.read(int.from_bytes(length, "little")))
            while block := file.read(_BLOCK):
                whole.update(block)
                numbers.update(block)
        return cls(whole.hexdigest(), numbers.hexdigest()[:12])
