"""The formulas, against those of the papers in float64."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from loras import Numbers
from pocket_diffusion.model.lora.changes import METHODS, Change, Method

Array = NDArray[Any]

LINEAR, POINT, CONV = (24, 36), (24, 36, 1, 1), (24, 36, 3, 3)
TOLERANCE = 1e-5  # float32 against float64
WEIGHT_SEED = 9


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def method(name: str) -> Method:
    return next(method for method in METHODS if method.name == name)


def change(name: str, tensors: Mapping[str, Array], shape: tuple[int, ...], factor: float = 1.0, **more: Any) -> Change:  # noqa: ANN401 - a change's fields
    return Change(method(name), {part: Numbers(array) for part, array in tensors.items()}, shape, factor, **more)


def check(changed: Change, wanted: Array, strength: float = 0.5) -> None:
    """Compare the change of a layer, which is added to its weights, with a formula's."""
    shapes = {part: tensor.shape for part, tensor in changed.tensors.items()}
    found = changed.method.shape(shapes)
    assert found[0] == changed.shape[0] and np.prod(found) == np.prod(changed.shape)
    weight = random(*changed.shape, seed=WEIGHT_SEED).astype(np.float32)
    result = changed.apply(weight.copy(), strength)
    assert result.dtype == np.float32 and result.shape == changed.shape
    added = wanted.reshape(changed.shape) * changed.factor * strength
    np.testing.assert_allclose(result, weight + added, rtol=TOLERANCE, atol=TOLERANCE * np.abs(added).max())
    assert np.abs(added).max() > 0.1


@pytest.mark.parametrize(
    ("shape", "down", "up"),
    [
        (LINEAR, (4, 36), (24, 4)),
        (POINT, (4, 36, 1, 1), (24, 4, 1, 1)),
        (POINT, (4, 36), (24, 4)),
        (CONV, (4, 36, 3, 3), (24, 4, 1, 1)),
    ],
)
def test_lora_is_a_product(shape: tuple[int, ...], down: tuple[int, ...], up: tuple[int, ...]) -> None:
    tensors = {"down": random(*down), "up": random(*up)}
    wanted = np.einsum("or,r...->o...", tensors["up"].reshape(24, 4), tensors["down"])
    check(change("LoRA", tensors, shape, 0.75), wanted)


def test_locon_with_a_core_is_three_convolutions() -> None:
    tensors = {"down": random(4, 36, 1, 1), "mid": random(5, 4, 3, 3), "up": random(24, 5, 1, 1)}
    wanted = np.einsum("om,mnhw,ni->oihw", tensors["up"][..., 0, 0], tensors["mid"], tensors["down"][..., 0, 0])
    check(change("LoRA", tensors, CONV), wanted)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_loha_is_the_elementwise_product_of_two_products(shape: tuple[int, ...]) -> None:
    inputs = int(np.prod(shape[1:]))
    tensors = {
        f"w{i}_{part}": random(*sizes, seed=i) for i in (1, 2) for part, sizes in (("a", (24, 3)), ("b", (3, inputs)))
    }
    wanted = (tensors["w1_a"] @ tensors["w1_b"]) * (tensors["w2_a"] @ tensors["w2_b"])
    check(change("LoHa", tensors, shape), wanted)


def test_loha_with_cores() -> None:
    names = {"t": (3, 3, 3, 3), "a": (3, 24), "b": (3, 36)}
    one, two = ({name: random(*shape, seed=seed) for name, shape in names.items()} for seed in (1, 2))
    tensors = {f"t{i}": x["t"] for i, x in ((1, one), (2, two))}
    tensors |= {f"w{i}_{part}": x[part] for i, x in ((1, one), (2, two)) for part in "ab"}
    first, second = (np.einsum("rshw,ro,si->oihw", x["t"], x["a"], x["b"]) for x in (one, two))
    check(change("LoHa", tensors, CONV), first * second)


@pytest.mark.parametrize("first", [{"w1": (4, 6)}, {"w1_a": (4, 2), "w1_b": (2, 6)}])
@pytest.mark.parametrize(
    ("second", "shape"),
    [
        ({"w2": (6, 6)}, LINEAR),
        ({"w2_a": (6, 3), "w2_b": (3, 6)}, LINEAR),
        ({"w2": (6, 6, 3, 3)}, CONV),
        ({"w2_a": (6, 3), "w2_b": (3, 54)}, CONV),
        ({"t2": (3, 3, 3, 3), "w2_a": (3, 6), "w2_b": (3, 6)}, CONV),
    ],
)
def test_lokr_is_a_kronecker_product(
    first: dict[str, tuple[int, ...]], second: dict[str, tuple[int, ...]], shape: tuple[int, ...]
) -> None:
    tensors = {name: random(*sizes) for name, sizes in (first | second).items()}
    w1 = tensors["w1"] if "w1" in tensors else tensors["w1_a"] @ tensors["w1_b"]
    if "t2" in tensors:
        w2 = np.einsum("rshw,ro,si->oihw", tensors["t2"], tensors["w2_a"], tensors["w2_b"])
    else:
        w2 = tensors["w2"] if "w2" in tensors else tensors["w2_a"] @ tensors["w2_b"]
    w2 = w2.reshape(6, 6, *shape[2:])
    wanted = np.einsum("ab,cd...->acbd...", w1, w2).reshape(shape)
    check(change("LoKr", tensors, shape), wanted)


def test_a_difference_is_added() -> None:
    tensors = {"diff": random(*CONV)}
    check(change("difference", tensors, CONV), tensors["diff"])


@pytest.mark.parametrize(
    ("shape", "magnitudes", "axes"),
    [
        (LINEAR, (24,), (1,)),  # PEFT
        (LINEAR, (24, 1), (1,)),
        (LINEAR, (1, 36), (0,)),  # LyCORIS' first: the paper's, one a column of W
        (CONV, (24, 1, 1, 1), (1, 2, 3)),
        (CONV, (1, 36, 1, 1), (0, 2, 3)),
    ],
)
@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_dora_gives_the_sum_other_magnitudes(
    shape: tuple[int, ...], magnitudes: tuple[int, ...], axes: tuple[int, ...], strength: float
) -> None:
    tensors = {"down": random(4, *shape[1:]), "up": random(24, 4)}
    weight, wanted_size = random(*shape, seed=WEIGHT_SEED), np.abs(random(*magnitudes)) + 1
    total = weight + 0.5 * np.einsum("or,r...->o...", tensors["up"], tensors["down"])
    sizes = wanted_size.reshape(-1, *(1,) * (len(shape) - 1)) if len(magnitudes) == 1 else wanted_size
    whole = sizes * total / np.sqrt((total**2).sum(axis=axes, keepdims=True))
    changed = change("LoRA", tensors, shape, 0.5, magnitudes=Numbers(wanted_size))
    result = changed.apply(weight.astype(np.float32), strength)
    np.testing.assert_allclose(result, weight + strength * (whole - weight), rtol=1e-5, atol=1e-5)


def test_the_weight_given_stays_as_it_is() -> None:
    weight = np.ones(LINEAR, np.float32)
    change("LoRA", {"down": random(4, 36), "up": random(24, 4)}, LINEAR).apply(weight, 1)
    assert (weight == 1).all()


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("LoRA", {"down": (4, 36), "up": (24, 5)}),
        ("LoRA", {"down": (4,), "up": (24, 4)}),
        ("LoRA", {"down": (4, 36), "up": (24, 4, 3, 3)}),
        ("LoRA", {"down": (4, 36, 1, 1), "mid": (4, 5, 3, 3), "up": (24, 4, 1, 1)}),
        ("LoRA", {"down": (4097, 36, 1, 1), "mid": (4, 4097, 3, 3), "up": (24, 4, 1, 1)}),
        ("LoHa", {"w1_a": (24, 3), "w1_b": (3, 36), "w2_a": (24, 3), "w2_b": (3, 35)}),
        ("LoKr", {"w1": (4, 6), "w2": (6,)}),
    ],
)
def test_refuses_tensors_that_do_not_go_together(name: str, tensors: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"\["):
        method(name).shape(tensors)


def test_alpha_has_no_meaning_beside_two_whole_factors() -> None:
    rank = method("LoKr").rank
    assert rank({"w1": (4, 6), "w2": (6, 6)}) is None
    assert rank({"w1": (4, 6), "w2_a": (6, 3), "w2_b": (3, 6)}) == 3
    assert rank({"w1_a": (4, 2), "w1_b": (2, 6), "w2": (6, 6)}) == 2
