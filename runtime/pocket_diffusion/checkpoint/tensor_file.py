"""One weights file to tensors by name: what it is is decided by its content, and a wrong ending is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pocket_diffusion.checkpoint.safetensors_file import read_safetensors
from pocket_diffusion.checkpoint.stored_tensor import StoredTensor, StoredTensors
from pocket_diffusion.checkpoint.torch_file import read_torch_file
from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from pocket_diffusion.files import open_regular

_TORCH_ENDINGS = (".ckpt", ".bin", ".pt", ".pth")
WEIGHT_ENDINGS = (".safetensors", *_TORCH_ENDINGS)
_MOST_VALUES = 100_000  # Stable Diffusion 1.5 has 1,100 tensors, and as many averages
_LONGEST_NAME = 256  # SD 1.5's longest has 84 letters
_PICKLE_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")


@dataclass(frozen=True)
class TensorFile:
    """What one file of weights holds."""

    tensors: StoredTensors
    metadata: dict[str, str] = field(default_factory=dict)
    """Free text by name; only safetensors files have any."""


def read_tensor_file(path: Path) -> TensorFile:
    """Describe all tensors of a `.safetensors` file or of one that `torch.save` wrote; none is read.

    Tensors nested in dictionaries have their names joined by dots, a `state_dict` around them all is taken off.

    Raises:
        CheckpointNotFoundError: there is no such file.
        UnsafeCheckpointError: a pickle that would run code.
        UnsupportedModelError: numbers of 8 bits and fewer.
        CheckpointError: damaged, or not a weights file at all.

    """
    try:
        with open_regular(path) as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointNotFoundError(f"{path} cannot be read: {error.strerror}") from None
    kind, is_torch = _recognise(path, start), path.suffix.lower() in _TORCH_ENDINGS
    if kind == "zip" and is_torch:
        read = TensorFile(_flatten(path, read_torch_file(path)))
    elif kind == "safetensors" and path.suffix.lower() == ".safetensors":
        read = TensorFile(*read_safetensors(path))
    else:
        endings = ", ".join(_TORCH_ENDINGS) if kind == "zip" else ".safetensors"
        what = "a PyTorch zip file" if kind == "zip" else "a safetensors file"
        raise CheckpointError(f"{path} is {what} by its content, whatever its name says; rename it to end in {endings}")
    if not read.tensors:
        raise CheckpointError(f"{path} holds no tensors; give a file of weights")
    return read


def _recognise(path: Path, start: bytes) -> Literal["zip", "safetensors"]:
    """Tell what the file is, or say what it is instead."""
    if not start:
        raise CheckpointError(f"{path} is empty; fetch it again")
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a git-lfs pointer, not the weights; run `git lfs pull` where it came from")
    if start.lstrip()[:100].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not weights; the download needs a login or another address")
    if start[8:9] == b"{":
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in _PICKLE_PROTOCOLS:
        raise UnsafeCheckpointError(
            f"{path} is a bare pickle (PyTorch wrote such files before version 1.6); refused, and nothing of it was "
            "run; get the model as .safetensors"
        )
    if path.suffix.lower() == ".safetensors":
        return "safetensors"
    raise CheckpointError(f"{path} is neither a .safetensors file nor a PyTorch checkpoint; fetch it again")


def _flatten(path: Path, content: Any) -> StoredTensors:  # noqa: ANN401 - whatever containers the file held
    if not isinstance(content, Mapping):
        what = "Tensor" if isinstance(content, StoredTensor) else type(content).__name__
        raise CheckpointError(f"{path} holds no tensors by name, but one {what}; give a file of weights")
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors: StoredTensors = {}
    for count, (name, value) in enumerate(_named_values(content)):
        if count == _MOST_VALUES or len(name) > _LONGEST_NAME:
            raise CheckpointError(
                f"{path} holds over {_MOST_VALUES:,} values, or one whose name has over {_LONGEST_NAME} letters; no "
                "checkpoint needs that"
            )
        if isinstance(value, StoredTensor):
            tensors[name] = value
    return tensors


def _named_values(content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what lies in a dictionary and in those in it; one of these may have many names, and costs as many times."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", value) for inner, value in value.items())
        else:
            yield str(name), value
