"""What int8 does to a layer, on the layer's own inputs."""

import numpy as np
import torch
from torch import nn

from pocket_diffusion.bundle import TensorSpec
from pocket_export.parts import Part
from pocket_export.rewrite.store_int8 import rounded_to_int8
from pocket_export.sensitivity import measure_int8_errors


def test_errors_are_those_of_the_outputs_without_the_bias() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    specs = [TensorSpec(name=name, dtype="float32", shape=("batch", size)) for name, size in (("x", 16), ("y", 4))]
    sizes = {"batch": 2, "contexts": 2, "height": 8, "width": 8}
    part = Part("network", network, (specs[0],), (specs[1],), sizes, 8)
    errors = measure_int8_errors(part)
    assert list(errors) == ["0.weight", "2.weight"]
    with torch.no_grad():
        x = part.example(sizes | {"batch": 1})[0]
        hidden = network[1](network[0](x)).numpy()
    weights = network[2].weight.detach().numpy()
    wrong = hidden @ (rounded_to_int8(weights, axis=0) - weights).T
    np.testing.assert_allclose(
        errors["2.weight"], np.linalg.norm(wrong) / np.linalg.norm(hidden @ weights.T), rtol=1e-4
    )
