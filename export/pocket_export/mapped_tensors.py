"""Stored tensors as PyTorch's, mapped from their files: a network of any size takes no memory of its own.

The price: a source that becomes shorter during the export ends the process by a signal (SIGBUS), which Python cannot
turn into an error. Nothing is published then, and the next export removes what was left.
"""

import mmap
from pathlib import Path

import torch

from pocket_diffusion.checkpoint.stored_tensor import SIZES, StoredTensor, StoredTensors
from pocket_diffusion.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def map_tensors(tensors: StoredTensors) -> Tensors:
    """Map tensors from their files.

    Raises:
        CheckpointError: a file cannot be mapped, or has become shorter.

    """
    files: dict[Path, mmap.mmap] = {}
    mapped = {}
    for name, tensor in tensors.items():
        try:
            if tensor.path not in files:
                with tensor.path.open("rb") as file:
                    files[tensor.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            mapped[name] = _map(tensor, files[tensor.path])
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{tensor.path} cannot be read: {error}; fetch it again") from None
    return mapped


def _map(tensor: StoredTensor, content: mmap.mmap) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, tensor.dtype)
    if not tensor.size:
        return torch.empty(tensor.shape, dtype=dtype)
    flat = torch.frombuffer(content, dtype=dtype, count=tensor.span, offset=tensor.offset)
    if tensor.offset % SIZES[tensor.dtype]:
        flat = flat.clone()  # few files are so; what computes with tensors may want them aligned
    return flat.as_strided(tensor.shape, tensor.strides)
