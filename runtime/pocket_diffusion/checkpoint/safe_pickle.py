"""Pickles, read without trusting them: an unpickler that can describe tensors and containers, nothing else.

Nor can a small pickle take much memory or time: nothing that it names copies much of what it is given, and it cannot
choose the hashes of keys.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pocket_diffusion.checkpoint.stored_tensor import MOST_SIDES
from pocket_diffusion.errors import UnsafeCheckpointError, UnsupportedModelError

_SHOWN = 100  # how much of a name from the file an error shows
_MOST_ARGUMENTS = 32  # of a call; tensors have 7

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
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


# What such objects are made of, beyond those packages. Replaced too: no tensor is made of them.
_PLAIN_TYPES = ("bool", "bytes", "dict", "float", "int", "list", "long", "set", "str", "tuple", "unicode")
_LEFTOVER_NAMES = frozenset(
    {
        "_codecs.encode",
        "collections.defaultdict",
        "torch.device",
        "typing.Any",
        *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64")),
        *(f"__builtin__.{name}" for name in _PLAIN_TYPES),
        *(f"builtins.{name}" for name in _PLAIN_TYPES),
    }
)


class _StateDict(dict[Any, Any]):
    """Stands for `collections.OrderedDict`, without the attributes that PyTorch hangs on one."""

    def __init__(self) -> None:
        """Take no items: a pickle that has many of them copied often takes all memory there is."""
        super().__init__()

    def __setstate__(self, _: object) -> None:
        """Ignore the attributes."""


class ParameterDict:
    """Stands for `torch.nn.ParameterDict`, in which the first textual inversions keep their vectors."""

    parameters: object = None

    def __setstate__(self, state: object) -> None:
        """Take the parameters and ignore the other attributes."""
        if isinstance(state, dict):
            self.parameters = state.get("_parameters")


class _Size:
    """Stands for `torch.Size`."""

    __slots__ = ()

    def __call__(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        if len(sides) > MOST_SIDES:
            raise ValueError("a shape of too many sides")
        return tuple(sides)


class _StorageType(NamedTuple):
    """Stands for `torch.FloatStorage` and its kin."""

    dtype: str


class StorageReference(NamedTuple):
    """A storage as the pickle names it."""

    dtype: str
    key: str
    length: int


class TensorReference(NamedTuple):
    """A tensor as the pickle describes it; it is looked for when the pickle has been read and can do no more."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`: no function, whose attributes a pickle could set."""

    __slots__ = ()

    def __call__(
        self, storage: StorageReference, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> TensorReference:
        if not isinstance(storage, StorageReference) or max(len(shape), len(strides)) > MOST_SIDES:
            raise ValueError("a tensor of no storage, or of too many sides")
        if not all(type(number) is int for number in (offset, *shape, *strides)):
            raise ValueError("a tensor whose sizes are no numbers")
        return TensorReference(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
    """Stands for `torch._utils._rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, tensor: TensorReference, *_: object) -> TensorReference:
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


def unpickle(content: bytes, path: Path) -> Any:  # noqa: ANN401 - whatever containers it holds
    """Return the containers that a pickle of PyTorch's describes, with a `TensorReference` for each tensor.

    Raises:
        UnsafeCheckpointError: it names something that is neither a tensor nor a container; `path` is blamed.
        UnsupportedModelError: numbers of 8 bits and fewer.
        Exception: any, for a damaged pickle.

    """
    return _TensorUnpickler(content, path).load()


def _as_key(key: object) -> object:
    """Return what stands for a key of a dictionary or an item of a set.

    Numbers become text. Python's hash of a text cannot be foreseen, but numbers can be chosen whose hashes collide, so
    that each takes as long as all before it. The hash of a tuple that holds another twice, and so on, takes for ever.
    """
    if isinstance(key, int):
        return str(key)
    if isinstance(key, str | Leftover) or key is Leftover:
        return key
    raise ValueError(f"a key that is neither text nor a whole number, but a {type(key).__name__}")


def _as_arguments(arguments: Any) -> Any:  # noqa: ANN401 - whatever lies on the stack
    """Refuse many arguments: each call copies them."""
    if len(arguments) > _MOST_ARGUMENTS:
        raise ValueError(f"a call with {len(arguments)} arguments")
    return arguments


def _checked(load: Callable[[Any], None], check: Callable[[Any], object], where: slice) -> Callable[[Any], None]:
    """Have an opcode check a part of the stack before it takes it."""

    def loader(unpickler: Any) -> None:  # noqa: ANN401 - typeshed does not know its stack
        unpickler.stack[where] = [check(item) for item in unpickler.stack[where]]
        load(unpickler)

    return loader


_CHECKS: dict[bytes, tuple[Callable[[Any], object], slice]] = {
    pickle.SETITEM: (_as_key, slice(-2, -1)),
    pickle.SETITEMS: (_as_key, slice(0, None, 2)),
    pickle.DICT: (_as_key, slice(0, None, 2)),
    pickle.ADDITEMS: (_as_key, slice(None)),
    pickle.FROZENSET: (_as_key, slice(None)),
    pickle.REDUCE: (_as_arguments, slice(-1, None)),
    pickle.NEWOBJ: (_as_arguments, slice(-1, None)),
    pickle.NEWOBJ_EX: (_as_arguments, slice(-2, None)),
}


class _Memo(dict[str, Any]):
    """The objects that a pickle has numbered, by their numbers as text; see `_as_key`."""

    def __getitem__(self, number: object) -> Any:  # noqa: ANN401
        return super().__getitem__(str(number))

    def __setitem__(self, number: object, value: Any) -> None:  # noqa: ANN401
        super().__setitem__(str(number), value)


class _TensorUnpickler(pickle._Unpickler):
    """Knows tensors and containers by name; replaces known leftovers; refuses everything else.

    It is Python's unpickler in Python. The one in C makes room for as many objects as a pickle of a few bytes says it
    will number. Nor does this one know bytearrays: it would make room for as many bytes as a pickle says.
    """

    dispatch = {  # noqa: RUF012 - as in the class above
        **{code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]},
        **{
            opcode[0]: _checked(pickle._Unpickler.dispatch[opcode[0]], check, where)
            for opcode, (check, where) in _CHECKS.items()
        },
    }

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self.memo: dict[str, Any] = _Memo()
        self._path = path

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Return what stands for a global. Nothing of `module` is ever imported."""
        if module == "collections" and name == "OrderedDict":
            return _StateDict
        if module == "torch.nn.modules.container" and name == "ParameterDict":
            return ParameterDict
        if module == "torch" and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        if module == "torch" and name == "Size":
            return _Size()
        if module == "torch._utils" and name == "_rebuild_tensor_v3":
            raise UnsupportedModelError(
                f"{self._path} holds numbers with too few bits to be computed with, such as float8; get the float16 or "
                "bfloat16 file of the model"
            )
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

    def persistent_load(self, pid: Any) -> StorageReference:  # noqa: ANN401
        """Return the storage that a tensor refers to."""
        kind, storage_type, key, _location, count = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not isinstance(key, str):
            raise ValueError("an unknown kind of storage")
        if type(count) is not int or count < 0:
            raise ValueError("a storage of no size")
        return StorageReference(storage_type.dtype, key, count)
