"""What 8 bits do to a layer, on the layer's own inputs."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pocket_diffusion.bundle import TensorSpec
from pocket_export.parts import Part
from pocket_export.rewrite.int8_weights import rounded_to_int8
from pocket_export.sensitivity import RoundingErrors, measure_int8_errors, measure_rounding_errors

SIZES = {"batch": 2, "contexts": 2, "height": 8, "width": 8}
FORMS = ("tensor", "token", "two_terms")


def part_of(network: nn.Module, *shape: int | str) -> Part:
    specs = [TensorSpec(name=name, dtype="float32", shape=shape) for name in ("x", "y")]
    return Part("network", network, (specs[0],), (specs[1],), SIZES, 8)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_errors_are_those_of_the_outputs_without_the_bias() -> None:
    network = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    part = part_of(network, "batch", 16)
    errors = measure_int8_errors(part)
    assert list(errors) == ["0.weight", "2.weight"]
    with torch.no_grad():
        x = part.example(SIZES | {"batch": 1})[0]
        hidden = network[1](network[0](x)).numpy()
    weights = network[2].weight.detach().numpy()
    wrong = hidden @ (rounded_to_int8(weights, axis=0) - weights).T
    np.testing.assert_allclose(
        errors["2.weight"], np.linalg.norm(wrong) / np.linalg.norm(hidden @ weights.T), rtol=1e-4
    )


# Rounded activations, written out once more, in float64 and with NumPy.


def by_tensor(x: NDArray[Any]) -> NDArray[Any]:
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(x / step + zero), 0, 255) - zero) * step


def by_token(x: NDArray[Any]) -> NDArray[Any]:
    step = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(x / step) * step


def in_two_terms(x: NDArray[Any]) -> NDArray[Any]:
    return by_tensor(x) + by_tensor(x - by_tensor(x))


def expected(x: NDArray[Any], weights: Tensor) -> dict[str, float]:
    """By form, for tokens `[..., inputs]` and weights `[outputs, inputs]`."""
    rounded = rounded_to_int8(weights.detach().numpy(), axis=0).astype(np.float64).T
    return {
        form: float(np.linalg.norm((x - round_(x)) @ rounded) / np.linalg.norm(x @ rounded))
        for form, round_ in zip(FORMS, (by_tensor, by_token, in_two_terms), strict=True)
    }


def found(errors: RoundingErrors) -> dict[str, float | None]:
    return {form: getattr(errors, form) for form in FORMS}


def test_rounding_errors_of_linear_layers_are_those_of_the_worst_evaluation() -> None:
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 48))
    x = torch.randn(200, 64)
    spiky = x.clone()
    spiky[5, 5] = 60
    errors = measure_rounding_errors(part_of(network, "batch", 64), [(x,), (spiky,), (x,)])
    assert list(errors) == ["0.weight", "2.weight"]
    assert found(errors["0.weight"]) == pytest.approx(expected(spiky.double().numpy(), network[0].weight), rel=1e-2)
    with torch.no_grad():
        hidden = [network[1](network[0](one)).double().numpy() for one in (x, spiky)]
    each = [expected(one, network[2].weight) for one in hidden]
    worst = {form: max(one[form] for one in each) for form in FORMS}
    assert found(errors["2.weight"]) == pytest.approx(worst, rel=1e-2)


def test_of_a_pointwise_convolution_each_pixel_is_a_token() -> None:
    network = nn.Sequential(nn.Conv2d(24, 40, 1))
    x = torch.randn(2, 24, 9, 7) + 0.5
    errors = measure_rounding_errors(part_of(network, "batch", 24, "height", "width"), [(x,)])
    tokens = x.permute(0, 2, 3, 1).double().numpy()
    assert found(errors["0.weight"]) == pytest.approx(expected(tokens, network[0].weight[:, :, 0, 0]), rel=1e-2)


def test_a_convolution_of_several_pixels_has_no_scale_a_token() -> None:
    """Its errors are measured with its own stride and padding."""
    network = nn.Sequential(nn.Conv2d(24, 40, 3, stride=2, padding=1))
    x = torch.randn(2, 24, 9, 7) + 0.5
    errors = measure_rounding_errors(part_of(network, "batch", 24, "height", "width"), [(x,)])["0.weight"]
    columns = functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2).double().numpy()
    wrong = (
        functional.unfold(x - torch.from_numpy(by_tensor(x.numpy())), 3, padding=1, stride=2).transpose(1, 2).numpy()
    )
    weights = rounded_to_int8(network[0].weight.detach().numpy(), axis=0).reshape(40, -1).T
    assert errors.token is None
    assert errors.tensor == pytest.approx(np.linalg.norm(wrong @ weights) / np.linalg.norm(columns @ weights), rel=1e-2)
    assert errors.two_terms < errors.tensor / 50


def with_large_tokens(x: Tensor) -> None:
    x[:20, 3] *= 40


def with_a_large_channel(x: Tensor) -> None:
    x[:, 3] *= 40


@pytest.mark.parametrize(
    ("spoil", "borne_by"), [(with_large_tokens, {"token", "two_terms"}), (with_a_large_channel, {"two_terms"})]
)
def test_outliers_show_in_the_forms_that_they_spoil(spoil: Callable[[Tensor], None], borne_by: set[str]) -> None:
    x = torch.randn(1000, 64)
    spoil(x)
    network = nn.Sequential(nn.Linear(64, 48))
    with torch.no_grad():
        network[0].weight[:, 3] /= 40  # so that the large numbers do not hide what becomes of the others
    errors = found(measure_rounding_errors(part_of(network, "batch", 64), [(x,)])["0.weight"])
    assert {form for form, error in errors.items() if error is not None and error < 0.03} == borne_by


def test_a_layer_that_sees_only_zeros_has_no_error() -> None:
    network = nn.Sequential(nn.Linear(64, 48))
    errors = measure_rounding_errors(part_of(network, "batch", 64), [(torch.zeros(3, 64),)])["0.weight"]
    assert found(errors) == dict.fromkeys(FORMS, 0.0)
