"""Which precision, weight storage and rewrites a bundle gets, by target: a table."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
import torch

from pocket_diffusion.bundle import Target, WeightStorage
from pocket_diffusion.errors import InvalidRequestError
from pocket_export.rewrite import fold_transposes, store_float16, store_int8

Rewrite = Callable[[ir.Model], ir.Model]


@dataclass(frozen=True)
class Recipe:
    """How one kind of bundle is made."""

    compute: torch.dtype
    rewrites: tuple[Rewrite, ...]
    tolerance: float
    """The relative error against PyTorch in float32 with the source's weights that is still accepted."""


# Float32 graphs differ from PyTorch in the order of their sums. Float16 weights are off by up to 2⁻¹¹ each, which
# hundreds of layers partly average out; int8 ones by up to 1/254 of their channel's largest.
RECIPES: dict[tuple[Target, WeightStorage], Recipe] = {
    ("cpu", "fp32"): Recipe(torch.float32, (fold_transposes,), 1e-4),
    ("cpu", "fp16"): Recipe(torch.float32, (fold_transposes, store_float16), 5e-3),
    ("cpu", "int8"): Recipe(torch.float32, (fold_transposes, store_int8), 1e-1),
    ("cuda", "fp32"): Recipe(torch.float32, (fold_transposes,), 1e-4),
    ("cuda", "fp16"): Recipe(torch.float16, (fold_transposes,), 2e-2),
}


def recipe(target: Target, weights: WeightStorage) -> Recipe:
    """Look up how a bundle is made.

    Raises:
        InvalidRequestError: there is no such combination.

    """
    try:
        return RECIPES[target, weights]
    except KeyError:
        known = ", ".join(f"--target {t} --weights {w}" for t, w in RECIPES)
        raise InvalidRequestError(f"--target {target} --weights {weights} does not exist; there are: {known}") from None
