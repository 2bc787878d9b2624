"""PyTorch's zip files, read without trusting them: an unpickler that can build tensors and containers, nothing else.

`torch.save` writes a zip with a pickle of the containers (`*/data.pkl`) and one uncompressed entry a storage
(`*/data/0`, `*/data/1`, …). The storages are mapped from the file, not read.
"""

import io
import mmap
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pocket_diffusion.errors import CheckpointError, UnsafeCheckpointError

_MAX_PICKLE_BYTES = 64 * 2**20  # SD 1.5's is 0.2 MB
_LOCAL_HEADER_BYTES = 30
_SHOWN = 100  # how much of a name from the file an error shows
_REASON = 200  # and how much of another library's complaint

# Training frameworks leave their own objects beside the weights. They are replaced by empty ones.
_LEFTOVER_PACKAGES = (
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "ldm",
    "numpy",
    "argparse",
    "pathlib",
)

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


# What such objects are made of, beyond those packages. Replaced too: no tensor is made of them.
_PLAIN_TYPES = ("bool", "bytes", "dict", "float", "int", "list", "long", "set", "str", "tuple", "unicode")
_LEFTOVER_NAMES = frozenset(
    {
        "_codecs.encode",
        "collections.defaultdict",
        "torch.device",
        "torch.nn.modules.container.ParameterDict",
        "typing.Any",
        *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64")),
        *(f"__builtin__.{name}" for name in _PLAIN_TYPES),
        *(f"builtins.{name}" for name in _PLAIN_TYPES),
    }
)


class _StateDict(dict[Any, Any]):
    """Stands for `collections.OrderedDict`, without the attributes that PyTorch hangs on one."""

    def __setstate__(self, _: object) -> None:
        """Ignore the attributes."""


class _StorageType(NamedTuple):
    """Stands for `torch.FloatStorage` and its kin."""

    dtype: torch.dtype


class _StorageReference(NamedTuple):
    """A storage as the pickle names it."""

    dtype: torch.dtype
    key: str
    length: int


class _TensorReference(NamedTuple):
    """A tensor as the pickle describes it; it is built when the pickle has been read and can do no more."""

    storage: _StorageReference
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _RebuildTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`: no function, whose attributes a pickle could set."""

    __slots__ = ()

    def __call__(
        self, storage: _StorageReference, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
    ) -> _TensorReference:
        return _TensorReference(storage, offset, size, stride)


class _RebuildParameter:
    """Stands for `torch._utils._rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, tensor: _TensorReference, *_: object) -> _TensorReference:
        return tensor


class Leftover:
    """An object of a training framework, with nothing in it and nothing to call."""

    def __new__(cls, *_: object, **__: object) -> "Leftover":
        """Take any arguments and ignore them."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Ignore the state."""

    def __setitem__(self, _: object, __: object) -> None:
        """Ignore an item."""

    def append(self, _: object) -> None:
        """Ignore an item."""


def read_torch_file(path: Path) -> Any:  # noqa: ANN401 - whatever containers the file holds
    """Return the containers and tensors of a file that `torch.save` wrote; the tensors are mapped from it.

    Raises:
        UnsafeCheckpointError: the pickle names something that is neither a tensor nor a container.
        CheckpointError: the file is damaged.

    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(
                    f"{path} is a zip file, but not one that PyTorch wrote: it has {len(pickles)} data.pkl, not 1; "
                    "give the .ckpt or .safetensors itself"
                )
            if entries[pickles[0]].file_size > _MAX_PICKLE_BYTES:
                raise CheckpointError(
                    f"{path}: its pickle has over {_MAX_PICKLE_BYTES >> 20} MB; no checkpoint needs that"
                )
            content = archive.read(pickles[0])  # verifies the entry's checksum
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            storages = _Storages(mapped, entries, pickles[0].removesuffix("data.pkl"))
            return storages.fill(_TensorUnpickler(content, path).load(), {})
    except CheckpointError:
        raise
    except Exception as error:  # damaged pickles fail in every way there is
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON]
        raise CheckpointError(f"{path} is damaged ({reason}); fetch it again") from None


class _Storages:
    """The entries of a zip file as flat tensors."""

    def __init__(self, mapped: mmap.mmap, entries: dict[str, zipfile.ZipInfo], root: str) -> None:
        self._mapped = mapped
        self._entries = entries
        self._root = root

    def fill(self, content: Any, filled: dict[int, Any]) -> Any:  # noqa: ANN401
        """Return the containers with tensors in the place of references; `filled` keeps what is shared shared."""
        if isinstance(content, _TensorReference):
            return self._tensor(content)
        if not isinstance(content, dict):
            return content
        if id(content) not in filled:
            filled[id(content)] = copy = {}
            copy.update({name: self.fill(value, filled) for name, value in content.items()})
        return filled[id(content)]

    def _tensor(self, reference: _TensorReference) -> torch.Tensor:
        (dtype, key, count), offset, size, stride = reference
        if min((offset, *size, *stride), default=0) < 0 or any(
            n > 1 and step == 0 for n, step in zip(size, stride, strict=True)
        ):
            raise ValueError("a tensor claims more than it holds")
        if 0 in size:
            return torch.empty(size, dtype=dtype)
        if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= count:
            raise ValueError("a tensor reaches beyond its storage")
        return self._storage(dtype, key, count).as_strided(size, stride, offset)

    def _storage(self, dtype: torch.dtype, key: str, count: int) -> torch.Tensor:
        entry = self._entries[f"{self._root}data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < count * dtype.itemsize:
            raise ValueError(f"storage {key} is compressed or shorter than it says")
        header = self._mapped[entry.header_offset : entry.header_offset + _LOCAL_HEADER_BYTES]
        name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        start = entry.header_offset + _LOCAL_HEADER_BYTES + name_length + extra_length
        return torch.frombuffer(self._mapped, dtype=dtype, count=count, offset=start)


class _TensorUnpickler(pickle.Unpickler):
    """Knows tensors and containers by name; replaces known leftovers; refuses everything else."""

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Return what stands for a global. Nothing of `module` is ever imported."""
        if module == "collections" and name == "OrderedDict":
            return _StateDict
        if module == "torch" and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        if module == "torch" and name == "Size":
            return tuple
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _RebuildTensor()
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _RebuildParameter()
        if module.partition(".")[0] in _LEFTOVER_PACKAGES or f"{module}.{name}" in _LEFTOVER_NAMES:
            return Leftover
        called = ascii(f"{module}.{name}"[:_SHOWN])[1:-1]  # a name from a hostile file must not steer the terminal
        raise UnsafeCheckpointError(
            f"{self._path} asks to call {called}, which no checkpoint needs; refused, and nothing of it was run; "
            "get the model as .safetensors from a source you trust"
        )

    def persistent_load(self, pid: Any) -> _StorageReference:  # noqa: ANN401
        """Return the storage that a tensor refers to."""
        kind, storage_type, key, _location, count = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not isinstance(key, str):
            raise ValueError("an unknown kind of storage")
        return _StorageReference(storage_type.dtype, key, int(count))
