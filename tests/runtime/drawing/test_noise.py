"""The numbers of torch's CPU generator."""

import numpy as np
import pytest

from pocket_diffusion.drawing.noise import MAX_SEED, NoiseGenerator, VariedNoise, slerp

# (seed, count): the first three, the last three, and the first two of 16 more; printed by torch 2.13
FROZEN = {
    (0, 16): ([-1.12584, -1.15236, -0.2505786], [1.237658, 1.116777, -0.2472782], [-1.352654, -1.695931]),
    (42, 21): ([1.926915, 1.487284, 0.9007172], [0.8034093, -0.6215954, -0.5920005], [-0.424519, 0.3057209]),
    (MAX_SEED, 64): ([-2.664298, -1.091049, 0.4514474], [-1.719831, 2.616468, -0.118878], [-0.1603081, 0.2257737]),
}


@pytest.mark.parametrize(("seed", "count"), FROZEN)
def test_numbers_are_those_that_torch_printed(seed: int, count: int) -> None:
    first, last, following = FROZEN[seed, count]
    generator = NoiseGenerator(seed)
    numbers = generator.normal((count,))
    assert numbers.dtype == np.float32
    np.testing.assert_allclose(numbers[:3], first, atol=1e-6)
    np.testing.assert_allclose(numbers[-3:], last, atol=1e-6)
    np.testing.assert_allclose(generator.normal((16,))[:2], following, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 4, 17, 11), (1, 4, 9, 9), (17,), (1, 4, 2, 2), (31,)])
@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, MAX_SEED])
def test_numbers_are_those_of_torch(seed: int, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = torch.Generator("cpu").manual_seed(seed), NoiseGenerator(seed)
    for _ in range(3):  # successive draws too
        np.testing.assert_allclose(ours.normal(shape), torch.randn(shape, generator=theirs).numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_that_torch_would_fold_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be from 0 to 4294967295"):
        NoiseGenerator(seed)


def test_too_few_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        NoiseGenerator(0).normal((15,))


def test_noise_is_turned_as_the_web_ui_turns_it() -> None:
    torch = pytest.importorskip("torch")
    begin, end = (torch.randn((4, 8, 6), generator=torch.Generator("cpu").manual_seed(seed)) for seed in (7, 9))
    angle = torch.acos(torch.nn.functional.cosine_similarity(begin, end, dim=1)).unsqueeze(1)  # of columns
    turned = (torch.sin(0.7 * angle) * begin + torch.sin(0.3 * angle) * end) / torch.sin(angle)
    noise = VariedNoise(7, 9, 0.3).initial((1, 4, 8, 6))
    np.testing.assert_allclose(noise[0], turned.numpy(), atol=1e-5)


def test_turned_noise_ends_at_either_and_keeps_its_length() -> None:
    begin, end = (NoiseGenerator(seed).normal((1, 4, 64, 64)) for seed in (1, 2))
    np.testing.assert_allclose(slerp(begin, end, 0), begin, atol=1e-5)
    np.testing.assert_allclose(slerp(begin, end, 1), end, atol=1e-5)
    np.testing.assert_allclose(slerp(begin, begin, 0.5), begin, atol=1e-6)
    assert slerp(begin, end, 0.5).std() == pytest.approx(1, abs=0.02)  # a mixture has 0.7


def test_what_follows_the_initial_noise_is_the_seeds_own() -> None:
    varied, own = VariedNoise(7, 9, 0.3), NoiseGenerator(7)
    assert not np.array_equal(varied.initial((1, 4, 8, 8)), own.initial((1, 4, 8, 8)))
    np.testing.assert_array_equal(varied.normal((1, 4, 8, 8)), own.normal((1, 4, 8, 8)))
