"""Whether a checkpoint's tensors are those that a network is made of, all compared before the long work."""

from collections.abc import Iterator, Mapping

from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.errors import TensorMismatchError

_NAMED = 3  # how many faults an error names
_SHOWN = 100  # and how much of a name that is not ours


def check_fit(source: str, network: str, tensors: StoredTensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare a source's tensors with the shapes that a network's have, both by published name; no number is read.

    Raises:
        TensorMismatchError: tensors are missing, left over, misshapen or no floating-point numbers; names the first.

    """
    faults = sorted(_faults(tensors, shapes))
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise TensorMismatchError(
            f"{source} does not fit {network}: {'; '.join(faults[:_NAMED])}{more}; fetch it again"
        )


def _faults(tensors: StoredTensors, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if name not in shapes:
            yield f"{name[:_SHOWN]!r} belongs nowhere"
        elif tensor.shape != shapes[name]:
            yield f"{name} is {list(tensor.shape)}, not {list(shapes[name])}"
        elif not tensor.is_floating_point:
            yield f"{name} holds {tensor.dtype}, not floating-point numbers"
    yield from (f"{name} is missing" for name in shapes.keys() - tensors.keys())
