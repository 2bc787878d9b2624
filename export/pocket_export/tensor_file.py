"""One weights file to tensors by name: what it is is decided by its content, and a wrong ending is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from pocket_export.safe_pickle import read_torch_file

Tensors = dict[str, torch.Tensor]

_WANTED = "wanted is a Stable Diffusion 1.x checkpoint"
_SHOWN = 100  # how much of a name from the file an error shows
_REASON = 200  # and how much of another library's complaint
_TORCH_ENDINGS = (".ckpt", ".bin", ".pt", ".pth")
WEIGHT_ENDINGS = (".safetensors", *_TORCH_ENDINGS)
_PICKLE_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
_MAX_HEADER_BYTES = 100 * 2**20  # what the safetensors library allows


def read_tensor_file(path: Path) -> Tensors:
    """Return all tensors of a `.safetensors` file or of one that `torch.save` wrote, mapped from the file.

    Tensors nested in dictionaries have their names joined by dots, a `state_dict` around them all is taken off.

    Raises:
        CheckpointNotFoundError: there is no such file.
        UnsafeCheckpointError: a pickle that would run code.
        CheckpointError: damaged, or not a weights file at all.

    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointNotFoundError(f"{path} cannot be read: {error.strerror}") from None
    kind, is_torch = _recognise(path, start), path.suffix.lower() in _TORCH_ENDINGS
    if kind == "zip" and is_torch:
        return _flatten(path, read_torch_file(path))
    if kind == "safetensors" and path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    endings = ", ".join(_TORCH_ENDINGS) if kind == "zip" else ".safetensors"
    what = "a PyTorch zip file" if kind == "zip" else "a safetensors file"
    raise CheckpointError(f"{path} is {what} by its content, whatever its name says; rename it to end in {endings}")


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the free-text metadata of a safetensors file."""
    with safetensors.safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _recognise(path: Path, start: bytes) -> str:
    """Return "zip" or "safetensors", or say what the file is instead."""
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


def _flatten(path: Path, content: Any) -> Tensors:  # noqa: ANN401 - whatever containers the file held
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no tensors by name, but one {type(content).__name__}; {_WANTED}")
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors: Tensors = {}
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            tensors[str(name)] = value
        elif isinstance(value, Mapping):
            tensors |= {f"{name}.{inner}": t for inner, t in value.items() if isinstance(t, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; {_WANTED}")
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:_REASON]
        raise CheckpointError(f"{path} is damaged ({reason}); fetch it again") from None
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; {_WANTED}")
    return tensors


def _check_header(path: Path) -> None:
    """Refuse what the format forbids and the library lets pass: doubled names, of which it would take the last."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise CheckpointError(f"{path} is damaged: its header claims {length:,} bytes; fetch it again")
        header = file.read(length)

    def refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{path} is damaged: its header names {double[:_SHOWN]!r} twice; fetch it again")
        return content

    try:
        json.loads(header, object_pairs_hook=refuse_doubles)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: its header is not JSON ({error}); fetch it again") from None
