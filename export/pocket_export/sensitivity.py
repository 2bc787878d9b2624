"""What int8 weights do to each layer, measured on the layer's own inputs."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocket_export.parts import Part
from pocket_export.rewrite.store_int8 import rounded_to_int8

_SIZES = {"batch": 1, "contexts": 1, "height": 24, "width": 24}


def measure_int8_errors(part: Part) -> dict[str, float]:
    """Run a network once in float32 and compare each linear layer's and convolution's output with that of int8 weights.

    Returns:
        By the weight's name, ‖(W - W′)x‖ / ‖Wx‖, biases left out, for the x that reaches the layer.

    """
    errors: dict[str, float] = {}
    hooks = [
        module.register_forward_hook(partial(_compare, errors, f"{name}.weight"))
        for name, module in part.module.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        with torch.inference_mode():
            part.module(*part.example(part.usual_sizes | _SIZES))
    finally:
        for hook in hooks:
            hook.remove()
    return errors


def _compare(
    errors: dict[str, float], name: str, layer: nn.Linear | nn.Conv2d, inputs: tuple[Tensor], _: Tensor
) -> None:
    weights = layer.weight
    wrong = torch.from_numpy(rounded_to_int8(weights.detach().numpy(), axis=0)) - weights
    outputs = [
        functional.linear(inputs[0], w)
        if isinstance(layer, nn.Linear)
        else functional.conv2d(inputs[0], w, None, layer.stride, layer.padding)
        for w in (wrong, weights)
    ]
    errors[name] = float(outputs[0].norm() / outputs[1].norm().clamp_min(torch.finfo(torch.float32).tiny))
