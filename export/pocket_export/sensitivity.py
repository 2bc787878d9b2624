"""What 8 bits do to each layer, measured on the layer's own inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocket_export.parts import Part
from pocket_export.rewrite.int8_weights import rounded_to_int8

Layer = nn.Linear | nn.Conv2d

_SIZES = {"batch": 1, "contexts": 1, "height": 24, "width": 24}


@dataclass(frozen=True)
class RoundingErrors:
    """What rounding a layer's inputs changes its output by, relative to it, by the forms of `int8_products`."""

    tensor: float
    token: float | None
    """None for a convolution whose windows hold more than one token."""
    two_terms: float

    def worst(self, other: "RoundingErrors") -> "RoundingErrors":
        """Return the larger error of two measurements of a layer, for each form."""
        token = None if self.token is None or other.token is None else max(self.token, other.token)
        return RoundingErrors(max(self.tensor, other.tensor), token, max(self.two_terms, other.two_terms))


def measure_int8_errors(part: Part) -> dict[str, float]:
    """Run a network once in float32 and compare each linear layer's and convolution's output with that of int8 weights.

    Returns:
        By the weight's name, ‖(W - W′)x‖ / ‖Wx‖, biases left out, for the x that reaches the layer.

    """
    errors: dict[str, float] = {}

    def compare(name: str, layer: Layer, x: Tensor) -> None:
        wrong = _rounded_weights(layer) - layer.weight
        errors[name] = _relative(_multiply(layer, x, wrong), _multiply(layer, x, layer.weight))

    _watch_layers(part, [part.example(part.usual_sizes | _SIZES)], compare)
    return errors


def measure_rounding_errors(part: Part, inputs: Sequence[tuple[Tensor, ...]]) -> dict[str, RoundingErrors]:
    """Run a network in float32 and compare each layer's output with those of rounded inputs, by int8 weights.

    Returns:
        By the weight's name, ‖W′(x - x′)‖ / ‖W′x‖, biases left out, the worst of all `inputs`.

    """
    errors: dict[str, RoundingErrors] = {}

    def compare(name: str, layer: Layer, x: Tensor) -> None:
        weights = _rounded_weights(layer)
        exact = _multiply(layer, x, weights)

        def error(rounded: Tensor) -> float:
            return _relative(_multiply(layer, x - rounded, weights), exact)

        by_tensor = _round(x)
        tokens_alone = isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1)
        found = RoundingErrors(
            tensor=error(by_tensor),
            token=error(_round_tokens(x, -1 if isinstance(layer, nn.Linear) else 1)) if tokens_alone else None,
            two_terms=error(by_tensor + _round(x - by_tensor)),
        )
        errors[name] = found.worst(errors.get(name, found))

    _watch_layers(part, inputs, compare)
    return errors


def _watch_layers(
    part: Part, inputs: Sequence[tuple[Tensor, ...]], compare: Callable[[str, Layer, Tensor], None]
) -> None:
    def hook(name: str, layer: Layer, given: tuple[Tensor], _: Tensor) -> None:
        compare(f"{name}.weight", layer, given[0])

    hooks = [
        module.register_forward_hook(partial(hook, name))
        for name, module in part.module.named_modules()
        if isinstance(module, Layer)
    ]
    try:
        with torch.inference_mode():
            for one in inputs:
                part.module(*one)
    finally:
        for handle in hooks:
            handle.remove()


def _round(x: Tensor) -> Tensor:
    """Round as DynamicQuantizeLinear does: to 256 steps from the least number, or 0, to the largest, or 0."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    step = ((high - low) / 255).clamp_min(torch.finfo(torch.float32).tiny)
    zero = torch.round(-low / step)
    return (torch.round(x / step + zero).clamp(0, 255) - zero) * step


def _round_tokens(x: Tensor, axis: int) -> Tensor:
    """Round to 127 steps from 0 to the largest number of each token, whose numbers lie along an axis."""
    step = (x.abs().amax(axis, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.round(x / step) * step


def _rounded_weights(layer: Layer) -> Tensor:
    return torch.from_numpy(rounded_to_int8(layer.weight.detach().numpy(), axis=0))


def _multiply(layer: Layer, x: Tensor, weights: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weights)
    return functional.conv2d(x, weights, None, layer.stride, layer.padding)


def _relative(difference: Tensor, exact: Tensor) -> float:
    return float(difference.norm() / exact.norm().clamp_min(torch.finfo(torch.float32).tiny))
