"""What a LoRA and its relatives do to one layer: their formulas, and which tensors of the file each is made of.

    LoRA   ΔW = up · down                                Hu et al. 2021, equation 3; of a convolution, up · mid · down
    LoHa   ΔW = (a₁ · b₁) ⊙ (a₂ · b₂)                     Hyeon-Woo et al. 2022 (FedPara), proposition 1
    LoKr   ΔW = w₁ ⊗ w₂, each perhaps a · b              Yeh et al. 2024 (LyCORIS), section 3
    diff   ΔW itself

All but `diff` are scaled by alpha / rank. With magnitudes m (DoRA; Liu et al. 2024, equation 5), the layer becomes
m · V / ‖V‖, where V = W + ΔW.
"""

import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Shape = tuple[int, ...]

LARGEST_FACTOR = 1000.0
"""What alpha / rank may be. Trainers take 1 or 2, and at 1000 float16's smallest step is a whole weight."""
LARGEST_RANK = 4096
"""Of a core, whose product takes memory that grows with it. The largest layers have 1280 outputs."""
_TINY = float(np.finfo(np.float32).eps)


class Tensor(Protocol):
    """A tensor of a file, read when it is needed."""

    @property
    def shape(self) -> Shape:
        """Its shape."""

    def read(self) -> NDArray[Any]:
        """Return its numbers."""


@dataclass(frozen=True)
class Method:
    """A way to write down the change of a layer."""

    name: str
    forms: frozenset[frozenset[str]]
    """The tensors that it may be made of, by their part in the formula: one of these sets."""
    shape: Callable[[Mapping[str, Shape]], Shape]
    """The change's shape, from its tensors'; ValueError where those do not go together."""
    delta: Callable[[Mapping[str, Array]], Array]
    """The change, before it is scaled, in a shape with as many outputs and numbers."""
    rank: Callable[[Mapping[str, Shape]], int | None]
    """By what alpha is divided; None where alpha has no meaning."""


@dataclass(frozen=True)
class Change:
    """What a file does to one layer, of the published `shape`."""

    method: Method
    tensors: Mapping[str, Tensor]
    """By the name of their part in the formula."""
    shape: Shape
    factor: float
    """Alpha / rank."""
    magnitudes: Tensor | None = None
    """DoRA's, which lie along some axes of the layer."""

    def apply(self, weight: Array, strength: float) -> Array:
        """Return the layer's weight, changed to a degree: 1 is as the file was trained, 0 not at all."""
        delta = self.method.delta({part: as_float32(tensor) for part, tensor in self.tensors.items()})
        delta = delta.reshape(self.shape)
        delta *= np.float32(self.factor if self.magnitudes is not None else self.factor * strength)
        delta += weight
        if self.magnitudes is None:
            return delta
        wanted = as_float32(self.magnitudes).reshape(magnitude_shape(self.magnitudes.shape, self.shape))
        others = tuple(axis for axis, size in enumerate(wanted.shape) if size == 1)
        sizes: Array = np.maximum(_norms(delta, others), _TINY).astype(np.float32)
        delta *= wanted / sizes
        if strength != 1:
            delta -= weight
            delta *= np.float32(strength)
            delta += weight
        return delta


def as_float32(tensor: Tensor) -> Array:
    """Return a tensor's numbers in float32, in an array of the caller's own or the file's."""
    return np.asarray(tensor.read(), np.float32)


@dataclass(frozen=True)
class OutputMagnitudes:
    """PEFT's magnitudes for DoRA: one an output, `[outputs]` for a matrix and `[1, outputs, 1, 1]` for a convolution.

    Other trainers' `[1, n, 1, 1]` has one an input.
    """

    tensor: Tensor

    @property
    def shape(self) -> Shape:
        """One axis."""
        return (math.prod(self.tensor.shape),)

    def read(self) -> NDArray[Any]:
        """Return them along that axis."""
        return self.tensor.read().reshape(-1)


def magnitude_shape(magnitudes: Shape, layer: Shape) -> Shape:
    """Return DoRA's magnitudes' shape with all axes of the layer; ValueError where they do not fit it."""
    if len(magnitudes) == 1 and magnitudes != layer[:1]:
        raise ValueError(f"{magnitudes[0]} magnitudes for {layer[0]} outputs")
    magnitudes = (*magnitudes, *(1,) * (len(layer) - len(magnitudes)))
    if len(magnitudes) != len(layer) or any(m not in (1, size) for m, size in zip(magnitudes, layer, strict=True)):
        raise ValueError(f"magnitudes {list(magnitudes)} for a layer {list(layer)}")
    return magnitudes


def _norms(array: Array, axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the Euclidean norms over some axes, which become 1; the squares are summed in float64 without a copy."""
    every = string.ascii_letters[: array.ndim]
    kept = "".join(letter for axis, letter in enumerate(every) if axis not in axes)
    squares = np.einsum(f"{every},{every}->{kept}", array, array, dtype=np.float64)
    norms: NDArray[np.float64] = np.sqrt(np.expand_dims(squares, axes))
    return norms


def _product_shape(left: Shape, right: Shape) -> Shape:
    """Return the shape of `[O, r] · [r, …]`."""
    if len(left) < 2 or len(right) < 2 or left[1] != right[0] or math.prod(left[2:]) != 1:
        raise ValueError(f"{list(left)} and {list(right)} have no product: their ranks differ")
    return left[0], *right[1:]


def _product(left: Array, right: Array) -> Array:
    return left.reshape(len(left), -1) @ right.reshape(len(right), -1)


def _core_shape(core: Shape, outputs: Shape, inputs: Shape) -> Shape:
    """Return the shape of Tucker's form: a core `[r, s, h, w]` between `[r, O]` and `[s, I]`."""
    if len(core) < 2 or len(outputs) < 2 or len(inputs) < 2 or core[:2] != (outputs[0], inputs[0]):
        raise ValueError(f"the core {list(core)} does not go with {list(outputs)} and {list(inputs)}")
    if math.prod(outputs[2:]) != 1 or math.prod(inputs[2:]) != 1:
        raise ValueError(f"{list(outputs)} and {list(inputs)} are no matrices")
    if max(core[:2]) > LARGEST_RANK:
        raise ValueError(f"the core {list(core)} has a rank above {LARGEST_RANK}")
    return outputs[1], inputs[1], *core[2:]


def _with_core(core: Array, outputs: Array, inputs: Array) -> Array:
    """Return `[O, I, h, w]`: Σ core[r, s, h, w] · outputs[r, O] · inputs[s, I]."""
    ranks = core.reshape(*core.shape[:2], -1)
    outputs, inputs = outputs.reshape(len(outputs), -1), inputs.reshape(len(inputs), -1)
    inner = np.tensordot(inputs, ranks, (0, 1))  # [I, r, h·w]
    result: Array = np.tensordot(outputs, inner, (0, 1))
    return result.reshape(outputs.shape[1], inputs.shape[1], *core.shape[2:])


# LoRA


def _lora_shape(shapes: Mapping[str, Shape]) -> Shape:
    if "mid" not in shapes:
        return _product_shape(shapes["up"], shapes["down"])
    up = shapes["up"]
    return _core_shape(shapes["mid"], (up[1], up[0], *up[2:]) if len(up) > 1 else up, shapes["down"])


def _lora(tensors: Mapping[str, Array]) -> Array:
    if "mid" not in tensors:
        return _product(tensors["up"], tensors["down"])
    return _with_core(tensors["mid"], tensors["up"].swapaxes(0, 1), tensors["down"])


# LoHa


def _loha_factors(names: Mapping[str, Any], i: int) -> tuple[Any, ...]:
    return tuple(names[part] for part in (f"t{i}", f"w{i}_a", f"w{i}_b") if part in names)


def _loha_shape(shapes: Mapping[str, Shape]) -> Shape:
    first, second = (
        _core_shape(*factors) if len(factors) == 3 else _product_shape(*factors)
        for factors in (_loha_factors(shapes, 1), _loha_factors(shapes, 2))
    )
    if first != second:
        raise ValueError(f"{list(first)} and {list(second)} are not alike")
    return first


def _loha(tensors: Mapping[str, Array]) -> Array:
    first, second = (
        _with_core(*factors) if len(factors) == 3 else _product(*factors)
        for factors in (_loha_factors(tensors, 1), _loha_factors(tensors, 2))
    )
    first *= second
    return first


# LoKr


def _lokr_shape(shapes: Mapping[str, Shape]) -> Shape:
    first = shapes["w1"] if "w1" in shapes else _product_shape(shapes["w1_a"], shapes["w1_b"])
    if "t2" in shapes:
        second = _core_shape(shapes["t2"], shapes["w2_a"], shapes["w2_b"])
    else:
        second = shapes["w2"] if "w2" in shapes else _product_shape(shapes["w2_a"], shapes["w2_b"])
    if len(first) < 2 or len(second) < 2 or math.prod(first[2:]) != 1:
        raise ValueError(f"{list(first)} and {list(second)} have no Kronecker product of that kind")
    return first[0] * second[0], first[1] * second[1], *second[2:]


def _lokr(tensors: Mapping[str, Array]) -> Array:
    first = tensors["w1"] if "w1" in tensors else _product(tensors["w1_a"], tensors["w1_b"])
    if "t2" in tensors:
        second = _with_core(tensors["t2"], tensors["w2_a"], tensors["w2_b"])
    else:
        second = tensors["w2"] if "w2" in tensors else _product(tensors["w2_a"], tensors["w2_b"])
    # Of a convolution, the window's numbers lie behind the inputs of the second factor.
    result: Array = np.kron(first.reshape(len(first), -1), second.reshape(len(second), -1))
    return result


def _lokr_rank(shapes: Mapping[str, Shape]) -> int | None:
    """Return the rank of a factor that is a product; beside two whole factors, trainers write any alpha."""
    decomposed = [shapes[part] for part in ("w2_b", "w1_b") if part in shapes]
    return decomposed[0][0] if decomposed else None


def _forms(*forms: str) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(form.split()) for form in forms)


METHODS = (
    Method("LoRA", _forms("down up", "down mid up"), _lora_shape, _lora, lambda shapes: shapes["down"][0]),
    Method(
        "LoHa",
        _forms("w1_a w1_b w2_a w2_b", "t1 w1_a w1_b t2 w2_a w2_b"),
        _loha_shape,
        _loha,
        lambda shapes: shapes["w1_b"][0],
    ),
    Method(
        "LoKr",
        _forms(*(f"{one} {two}" for one in ("w1", "w1_a w1_b") for two in ("w2", "w2_a w2_b", "t2 w2_a w2_b"))),
        _lokr_shape,
        _lokr,
        _lokr_rank,
    ),
    Method(
        "difference",
        _forms("diff"),
        lambda shapes: shapes["diff"],
        lambda tensors: tensors["diff"].copy(),
        lambda _shapes: None,
    ),
)
