"""What holds for every sampler of the table."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS, make_levels
from sampling import denoise, levels_at, make, smooth_noise, some_latents

EVERY = pytest.mark.parametrize("name", SAMPLERS)
SIGMAS = np.append(np.geomspace(14.6, 0.03, 40), 0)


@pytest.fixture(autouse=True)
def no_silent_trouble() -> Iterator[None]:
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield


def walk(name: str, levels: Levels, x: np.ndarray, start: int = 0, eta: float | None = None) -> np.ndarray:
    sampler = make(name, levels, eta)
    for i in range(start, levels.steps):
        x = sampler.step(x, i, denoise, smooth_noise)
    return x


@EVERY
@pytest.mark.parametrize(
    "schedule", [NoiseSchedule(), NoiseSchedule(rescale_betas_zero_snr=True), NoiseSchedule(steps_offset=0)], ids=str
)
def test_draws_with_every_scheduler_however_few_the_steps(name: str, schedule: NoiseSchedule) -> None:
    kind = SAMPLERS[name]
    for scheduler, steps in itertools.product(filter(kind.takes, SCHEDULERS), (1, 2, 3, 4)):
        levels = make_levels(schedule, scheduler, steps, kind.family)
        x = np.float32(levels.start) * some_latents(0.0)
        end = walk(name, levels, x)
        assert end.dtype == np.float32
        assert np.isfinite(end).all(), (scheduler, steps)


@EVERY
def test_ends_at_the_picture_that_the_model_sees(name: str) -> None:
    """Noise of the last step, if any, is gone at level 0: the last x_0 is the result."""
    clean = some_latents(0.0)
    levels = levels_at([4.0, 3.0, 2.0, 1.2, 0.5, 0.0])
    sampler, x = make(name, levels), clean + 4 * smooth_noise(1, 2)
    for i in range(levels.steps):
        x = sampler.step(x, i, lambda x, sigma: clean, smooth_noise)
    # A multistep method gets there through sums of slopes; LCM keeps 1e-6 of x, by its boundary condition.
    np.testing.assert_allclose(x, clean, atol=1e-4)


@EVERY
def test_leaves_its_inputs_as_they_are(name: str) -> None:
    levels, given = levels_at(SIGMAS[::8]), []

    def see(x: np.ndarray, sigma: float) -> np.ndarray:
        return keep(denoise(x, sigma))

    def noise(sigma: float, sigma_next: float) -> np.ndarray:
        return keep(smooth_noise(sigma, sigma_next))

    def keep(array: np.ndarray) -> np.ndarray:
        given.append((array, array.copy()))
        return array

    sampler, x = make(name, levels), some_latents(14.6)
    for i in range(levels.steps):
        x = keep(x)
        x = sampler.step(x, i, see, noise)
    for array, copy in given:
        np.testing.assert_array_equal(array, copy)


@EVERY
def test_each_picture_has_a_memory_of_its_own(name: str) -> None:
    levels = levels_at(SIGMAS[::8])
    samplers = make(name, levels), make(name, levels)
    pictures = [some_latents(14.6), some_latents(14.6)[..., ::-1].copy()]
    alone = [walk(name, levels, x) for x in pictures]
    for i in range(levels.steps):
        pictures = [one.step(x, i, denoise, smooth_noise) for one, x in zip(samplers, pictures, strict=True)]
    np.testing.assert_array_equal(pictures, alone)


@EVERY
def test_starts_from_the_middle_as_if_the_levels_began_there(name: str) -> None:
    levels = levels_at(SIGMAS)
    rest = levels_at(SIGMAS[20:], levels.timesteps[20:])
    x = some_latents(SIGMAS[20])
    np.testing.assert_array_equal(walk(name, levels, x, start=20), walk(name, rest, x))


@EVERY
def test_float32_is_close_to_float64(name: str) -> None:
    levels = levels_at(SIGMAS[::2])
    x = some_latents(14.6, np.float64)
    exact = walk(name, levels, x)
    # 20 steps of 1e-7 of numbers up to 30 that cancel to 1.
    np.testing.assert_allclose(walk(name, levels, x.astype(np.float32)), exact, atol=1e-4)


@EVERY
def test_takes_a_last_step_that_leads_nowhere(name: str) -> None:
    """DDIM's and PNDM's, from timestep 0 to the level of timestep 0."""
    levels = levels_at([3.0, 1.0, 0.03, 0.03])
    assert np.isfinite(walk(name, levels, some_latents(3.0), eta=None)).all()


@pytest.mark.parametrize(
    ("stochastic", "deterministic"),
    [
        ("ddpm", "euler"),
        ("ddim", "euler"),
        ("euler_a", "euler"),
        ("dpm2_a", "dpm2"),
        ("dpmpp_2m_sde", "dpmpp_2m"),
        ("dpmpp_2s_a", "dpmpp_sde"),
    ],
)
def test_without_eta_is_its_deterministic_twin(stochastic: str, deterministic: str) -> None:
    levels, x = levels_at(SIGMAS[::4]), some_latents(14.6)
    eta = 0.0 if SAMPLERS[deterministic].eta is not None else None
    twin = walk(deterministic, levels, x, eta=eta)
    np.testing.assert_allclose(walk(stochastic, levels, x, eta=0.0), twin, rtol=0, atol=1e-6)


@EVERY
def test_draws_noise_exactly_where_some_is_added(name: str) -> None:
    kind, levels = SAMPLERS[name], levels_at([5.0, 2.0, 0.0])
    drawn: list[tuple[float, float]] = []

    def noise(sigma: float, sigma_next: float) -> np.ndarray:
        drawn.append((sigma, sigma_next))
        return smooth_noise(sigma, sigma_next)

    sampler, x = kind.sampler(levels), some_latents(5.0)
    for i in range(levels.steps):
        x = sampler.step(x, i, denoise, noise)
    middle = {"dpmpp_sde": [(5.0, np.sqrt(10.0))]}.get(name, [])
    assert drawn == ([] if not kind.eta else [*middle, (5.0, 2.0)])


@pytest.mark.parametrize("name", [name for name, kind in SAMPLERS.items() if kind.eta and name != "dpmpp_sde"])
def test_s_noise_multiplies_the_noise(name: str) -> None:
    levels = levels_at([5.0, 2.0, 0.0])
    ends = [
        SAMPLERS[name].sampler(levels, None, s_noise).step(some_latents(5.0), 0, denoise, smooth_noise)
        for s_noise in (0.0, 1.0, 2.0)
    ]
    assert np.abs(ends[1] - ends[0]).max() > 0.1
    np.testing.assert_allclose(ends[2] - ends[0], 2 * (ends[1] - ends[0]), atol=1e-5)


@pytest.mark.parametrize("name", [name for name, kind in SAMPLERS.items() if kind.eta is not None])
def test_eta_changes_the_share_of_fresh_noise(name: str) -> None:
    levels = levels_at([5.0, 2.0, 0.0])
    ends = [make(name, levels, eta).step(some_latents(5.0), 0, denoise, smooth_noise) for eta in (0.0, 0.5, 1.0)]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(ends, 2)) > 0.05


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_evaluates_as_often_as_the_table_says(name: str, steps: int) -> None:
    kind, levels, seen = SAMPLERS[name], levels_at(SIGMAS[-steps - 1 :]), []

    def see(x: np.ndarray, sigma: float) -> np.ndarray:
        seen.append(sigma)
        return denoise(x, sigma)

    sampler, x = kind.sampler(levels), some_latents(1.0)
    for i in range(steps):
        x = sampler.step(x, i, see, smooth_noise)
    assert min(seen) > 0
    # The step to level 0 takes one; PLMS's first step takes two.
    assert len(seen) == kind.evaluations * (steps - 1) + 1 + (name == "pndm" and steps > 1)


def test_lcm_holds_on_to_the_latents_at_timestep_0() -> None:
    levels = levels_at([0.03, 0.0], [0.0])
    x = some_latents(0.03)
    found = make("lcm", levels).step(x, 0, denoise, smooth_noise)
    np.testing.assert_allclose(found, x / np.hypot(1, 0.03), rtol=1e-6)
