"""PyTorch's zip files: tensors described by a pickle that is not trusted.

`torch.save` writes a zip with a pickle of the containers (`*/data.pkl`) and one uncompressed entry a storage
(`*/data/0`, `*/data/1`, …), which is left where it lies.
"""

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocket_diffusion.checkpoint.safe_pickle import ParameterDict, TensorReference, unpickle
from pocket_diffusion.checkpoint.stored_tensor import SIZES, StoredTensor
from pocket_diffusion.errors import CheckpointError

_MAX_PICKLE_BYTES = 2 * 2**20  # SD 1.5's is 0.2 MB; unpickled, one may take a hundred times its size
_MAX_DIRECTORY_BYTES = 2 * 2**20  # SD 1.5's is 0.1 MB; likewise
_LOCAL_HEADER_BYTES = 30
_REASON = 200  # how much of another library's complaint an error shows


def read_torch_file(path: Path) -> Any:  # noqa: ANN401 - whatever containers the file holds
    """Return the containers of a file that `torch.save` wrote, with a `StoredTensor` for each tensor.

    Raises:
        UnsafeCheckpointError: the pickle names something that is neither a tensor nor a container.
        UnsupportedModelError: numbers of 8 bits and fewer.
        CheckpointError: the file is damaged.

    """
    try:
        with _ShortReads(path) as file, zipfile.ZipFile(file) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(
                    f"{path} is a zip file, but not one that PyTorch wrote: it has {len(pickles)} data.pkl, not 1; "
                    "give the .ckpt or .safetensors itself"
                )
            entry = entries[pickles[0]]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _MAX_PICKLE_BYTES:
                raise CheckpointError(
                    f"{path}: its pickle is compressed or has over {_MAX_PICKLE_BYTES >> 20} MB; no checkpoint needs "
                    "that"
                )
            content = archive.read(entry)  # verifies the entry's checksum
            storages = _Storages(path, file, entries, pickles[0].removesuffix("data.pkl"))
            return storages.fill("", unpickle(content, path), {})
    except CheckpointError:
        raise
    except Exception as error:  # damaged pickles fail in every way there is
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON]
        raise CheckpointError(f"{path} is damaged ({reason}); fetch it again") from None


class _ShortReads(io.FileIO):
    """A file of whose directory, which `zipfile` reads at once, no more is taken than a checkpoint needs."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, but not all that a hostile file claims."""
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory has over {_MAX_DIRECTORY_BYTES >> 20} MB")
        return super().read(size) or b""


class _Storages:
    """The entries of a zip file, in which tensors lie."""

    def __init__(self, path: Path, file: io.FileIO, entries: Mapping[str, zipfile.ZipInfo], root: str) -> None:
        self._path = path
        self._file = file
        self._entries = entries
        self._root = root
        self._starts: dict[str, int] = {}

    def fill(self, name: str, content: Any, filled: dict[int, Any]) -> Any:  # noqa: ANN401
        """Return the containers with tensors in the place of references; `filled` keeps what is shared shared."""
        if isinstance(content, TensorReference):
            return self._tensor(name, content)
        if isinstance(content, ParameterDict):
            content = content.parameters
        if not isinstance(content, dict):
            return content
        if id(content) not in filled:
            filled[id(content)] = copy = {}
            copy.update({key: self.fill(str(key), value, filled) for key, value in content.items()})
        return filled[id(content)]

    def _tensor(self, name: str, reference: TensorReference) -> StoredTensor:
        (dtype, key, count), offset, shape, strides = reference
        start = self._start(key, count * SIZES[dtype])
        tensor = StoredTensor(name, self._path, dtype, shape, start + offset * SIZES[dtype], strides)
        if tensor.size and offset + tensor.span > count:
            raise ValueError("a tensor reaches beyond its storage")
        return tensor

    def _start(self, key: str, length: int) -> int:
        """Return where the bytes of a storage start."""
        entry = self._entries[f"{self._root}data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < length:
            raise ValueError(f"storage {key} is compressed or shorter than it says")
        if key not in self._starts:
            self._file.seek(entry.header_offset)
            header = self._file.read(_LOCAL_HEADER_BYTES)
            sizes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")  # name and extra
            self._starts[key] = entry.header_offset + _LOCAL_HEADER_BYTES + sum(sizes)
        if self._starts[key] + length > os.fstat(self._file.fileno()).st_size:
            raise ValueError(f"storage {key} reaches beyond the file")
        return self._starts[key]
