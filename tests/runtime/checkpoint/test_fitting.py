"""Tensors that do not fit a network: named before a number is read."""

from pathlib import Path

import pytest

from pocket_diffusion.checkpoint.fitting import check_fit
from pocket_diffusion.checkpoint.stored_tensor import StoredTensor, contiguous
from pocket_diffusion.errors import TensorMismatchError

SHAPES = {"a": (2, 3), "b": (3,), "c": (), "d": (1,)}


def stored(shape: tuple[int, ...], dtype: str = "float16") -> StoredTensor:
    return StoredTensor("theirs", Path("nowhere"), dtype, shape, 0, contiguous(shape))


def test_accepts_all_floating_point_numbers() -> None:
    dtypes = ("float16", "bfloat16", "float32", "float64")
    tensors = {name: stored(shape, dtype) for (name, shape), dtype in zip(SHAPES.items(), dtypes, strict=True)}
    check_fit("a file", "UNet", tensors, SHAPES)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"a": None}, "a is missing"),
        ({"a": stored((3, 2))}, r"a is \[3, 2\], not \[2, 3\]"),
        ({"b": stored((3,), "int8")}, "b holds int8, not floating-point numbers"),
        ({"gho\nst" * 100: stored((1,))}, r"'(gho\\nst){16}gho\\n' belongs nowhere"),
    ],
)
def test_names_what_does_not_fit(change: dict[str, StoredTensor | None], fault: str) -> None:
    tensors = {name: stored(shape) for name, shape in SHAPES.items()} | change
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(TensorMismatchError, match=f"^a file does not fit UNet: {fault}; fetch it again$"):
        check_fit("a file", "UNet", kept, SHAPES)


def test_names_the_first_faults_and_counts_the_others() -> None:
    with pytest.raises(TensorMismatchError, match="UNet: a is missing; b is missing; c is missing and 1 more; fetch"):
        check_fit("a file", "UNet", {}, SHAPES)
