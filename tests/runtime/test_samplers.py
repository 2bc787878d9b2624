"""Samplers: known facts of the formulas, and diffusers' DDPM where it is installed."""

import numpy as np
import pytest

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.samplers import SAMPLERS, DDPMSampler
from pocket_diffusion.schedule import cumulative_alphas

SHAPE = (1, 4, 5, 3)


def no_noise() -> np.ndarray:
    return np.zeros(SHAPE, np.float32)


def some_noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def test_ddpm_has_its_name() -> None:
    assert SAMPLERS["ddpm"] is DDPMSampler


@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_ddpm_steps_as_diffusers_does(spacing: object, prediction_type: object, steps: int) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule(
        timestep_spacing=spacing, prediction_type=prediction_type, steps_offset=0 if steps == 1000 else 1
    )
    ours = DDPMSampler(schedule, steps)
    theirs = diffusers.DDPMScheduler(
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        steps_offset=schedule.steps_offset,
        clip_sample=False,
    )
    theirs.set_timesteps(steps)
    latents, prediction = some_noise(0), some_noise(1)
    for index in sorted({0, 1, steps // 2, steps - 2, steps - 1} & set(range(steps))):
        timestep = int(theirs.timesteps[index])
        generator = torch.Generator().manual_seed(index)
        expected = theirs.step(
            torch.tensor(prediction), timestep, torch.tensor(latents), generator=generator
        ).prev_sample.numpy()
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(index)).numpy()
        found = ours.step(latents, prediction, index, lambda noise=noise: noise)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 2e-4 * np.abs(expected).max(), index
        noisy = theirs.add_noise(torch.tensor(latents), torch.tensor(noise), torch.tensor([timestep])).numpy()
        np.testing.assert_allclose(ours.add_noise(latents, noise, timestep), noisy, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_leads_back_to_the_clean_latents(prediction_type: object) -> None:
    schedule = NoiseSchedule(prediction_type=prediction_type)
    sampler = DDPMSampler(schedule, 1)
    clean, noise = some_noise(0), some_noise(1)
    timestep = int(sampler.timesteps[0])
    noisy = sampler.add_noise(clean, noise, timestep)
    alpha_bar = cumulative_alphas(schedule)[timestep]
    perfect = noise if prediction_type == "epsilon" else alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * clean
    found = sampler.step(noisy, perfect.astype(np.float32), 0, no_noise)
    np.testing.assert_allclose(found, clean, atol=1e-5)


def test_noise_keeps_the_variance() -> None:
    sampler = DDPMSampler(NoiseSchedule(), 10)
    rng = np.random.default_rng(0)
    clean, noise = (rng.standard_normal(100_000).astype(np.float32) for _ in range(2))
    for timestep in (0, 500, 999):
        assert np.std(sampler.add_noise(clean, noise, timestep)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("offset", "draws"), [(1, 3), (0, 2)])
def test_noise_is_drawn_at_every_step_but_at_timestep_0(offset: int, draws: int) -> None:
    sampler = DDPMSampler(NoiseSchedule(steps_offset=offset), 3)
    drawn = []

    def draw() -> np.ndarray:
        drawn.append(1)
        return some_noise(0)

    for index in range(3):
        sampler.step(some_noise(1), some_noise(2), index, draw)
    assert len(drawn) == draws
