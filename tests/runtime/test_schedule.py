"""Betas and timesteps, against diffusers where it is installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.schedule import betas, cumulative_alphas, spaced_timesteps

SPACINGS = ["leading", "linspace", "trailing"]


def diffusers_scheduler(schedule: NoiseSchedule) -> object:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.DDPMScheduler(
        num_train_timesteps=schedule.train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        trained_betas=schedule.trained_betas,
        prediction_type=schedule.prediction_type,
        timestep_spacing=schedule.timestep_spacing,
        steps_offset=schedule.steps_offset,
        clip_sample=False,
    )


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule(),
        NoiseSchedule(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
        NoiseSchedule(train_timesteps=3, trained_betas=(0.1, 0.2, 0.4)),
    ],
    ids=["scaled_linear", "linear", "trained"],
)
def test_cumulative_alphas_are_those_of_diffusers(schedule: NoiseSchedule) -> None:
    theirs = diffusers_scheduler(schedule)
    np.testing.assert_allclose(betas(schedule), theirs.betas.numpy(), rtol=1e-5)
    np.testing.assert_allclose(cumulative_alphas(schedule), theirs.alphas_cumprod.numpy(), rtol=5e-5)


@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_are_those_of_diffusers(spacing: object, steps: int) -> None:
    offset = 0 if steps == 1000 else 1  # with both, diffusers steps past the end
    schedule = NoiseSchedule(timestep_spacing=spacing, steps_offset=offset)
    theirs = diffusers_scheduler(schedule)
    theirs.set_timesteps(steps)
    assert spaced_timesteps(schedule, steps).tolist() == theirs.timesteps.tolist()


def test_stable_diffusions_own_timesteps() -> None:
    assert spaced_timesteps(NoiseSchedule(), 5).tolist() == [801, 601, 401, 201, 1]


@given(st.sampled_from(SPACINGS), st.integers(1, 1000), st.integers(0, 1))
def test_timesteps_are_as_many_as_asked_fall_and_stay_inside(spacing: object, steps: int, offset: int) -> None:
    timesteps = spaced_timesteps(NoiseSchedule(timestep_spacing=spacing, steps_offset=offset), steps)
    assert timesteps.shape == (steps,)
    assert timesteps.dtype == np.int64
    assert (np.diff(timesteps) <= 0).all()
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_that_cannot_be_taken_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps must be from 1 to 1000"):
        spaced_timesteps(NoiseSchedule(), steps)
