"""Betas, cumulative alphas and trained noise levels, against diffusers where it is installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.drawing.schedule import EXACT_TERMINAL_ALPHA, TrainedLevels, betas, cumulative_alphas
from pocket_diffusion.errors import BundleFormatError

SCHEDULES = {
    "scaled_linear": NoiseSchedule(),
    "linear": NoiseSchedule(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "trained": NoiseSchedule(train_timesteps=3, trained_betas=(0.1, 0.2, 0.4)),
}
ZERO_SNR = NoiseSchedule(rescale_betas_zero_snr=True)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_cumulative_alphas_are_those_of_diffusers(schedule: NoiseSchedule) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=schedule.train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        trained_betas=schedule.trained_betas,
    )
    # theirs are products of up to 1000 float32 numbers
    np.testing.assert_allclose(betas(schedule), theirs.betas.numpy(), rtol=1e-5)
    np.testing.assert_allclose(cumulative_alphas(schedule), theirs.alphas_cumprod.numpy(), rtol=5e-5)


def test_zero_terminal_snr_rescales_as_diffusers_does() -> None:
    torch = pytest.importorskip("torch")
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    theirs = ddim.rescale_zero_terminal_snr(torch.from_numpy(betas(ZERO_SNR)))
    # both in float64; theirs goes through betas, whose subtraction from 1 leaves 1e-16 absolute
    np.testing.assert_allclose(cumulative_alphas(ZERO_SNR), np.cumprod(1 - theirs.numpy()), rtol=1e-9, atol=1e-15)


def test_zero_terminal_snr_leaves_nothing_at_the_last_timestep_and_the_first_as_it_was() -> None:
    ours, plain = cumulative_alphas(ZERO_SNR), cumulative_alphas(NoiseSchedule())
    assert ours[-1] == 0
    assert ours[0] == pytest.approx(plain[0], rel=1e-12)


def test_the_last_level_of_zero_terminal_snr_is_4096_or_as_good_as_infinite() -> None:
    # as close as 2**-24 is to 4096**-2
    assert TrainedLevels(ZERO_SNR).sigmas[-1] == pytest.approx(4096, rel=1e-7)
    assert TrainedLevels(ZERO_SNR, EXACT_TERMINAL_ALPHA).sigmas[-1] == pytest.approx(1e8, rel=1e-7)


def test_stable_diffusions_levels_are_the_known_ones() -> None:
    sigmas = TrainedLevels(NoiseSchedule()).sigmas
    assert sigmas.shape == (1000,)
    # k-diffusion prints these with four digits
    assert (sigmas[0], sigmas[-1]) == pytest.approx((0.0292, 14.6146), abs=5e-5)


def test_whole_timesteps_have_the_trained_levels() -> None:
    trained = TrainedLevels(NoiseSchedule())
    # through a logarithm and back
    np.testing.assert_allclose(trained.sigma(np.arange(1000.0)), trained.sigmas, rtol=1e-13)


def test_log_sigma_is_linear_between_timesteps() -> None:
    trained = TrainedLevels(NoiseSchedule())
    assert trained.sigma(10.5) == pytest.approx((trained.sigmas[10] * trained.sigmas[11]) ** 0.5, rel=1e-12)


@given(st.floats(0, 999))
def test_timestep_is_the_inverse_of_sigma(timestep: float) -> None:
    trained = TrainedLevels(NoiseSchedule())
    # log sigma moves by 3e-3 or more a timestep, and float64 keeps 1e-15 of it
    assert trained.timestep(trained.sigma(timestep)) == pytest.approx(timestep, abs=1e-9)


def test_timesteps_between_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    trained = TrainedLevels(NoiseSchedule())
    sigmas = np.geomspace(0.02, 16, 77)
    euler = diffusers.EulerDiscreteScheduler()
    theirs = [euler._sigma_to_t(np.array(sigma), np.log(trained.sigmas)) for sigma in sigmas]
    np.testing.assert_allclose(trained.timestep(sigmas), theirs, atol=1e-9)  # both in float64


def test_levels_and_timesteps_beyond_the_trained_ones_count_as_the_nearest() -> None:
    trained = TrainedLevels(NoiseSchedule())
    assert (trained.timestep(0.0), trained.timestep(1e9)) == (0, 999)
    assert trained.sigma(-1.0) == pytest.approx(trained.sigmas[0])
    assert trained.sigma(1001.0) == pytest.approx(trained.sigmas[-1])


def test_single_levels_are_pythons_floats() -> None:
    trained = TrainedLevels(NoiseSchedule())
    assert type(trained.sigma(3)) is float
    assert type(trained.timestep(np.float64(3.0))) is float


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule(train_timesteps=2, trained_betas=(0.5, 1e-300)),
        NoiseSchedule(train_timesteps=100_000, beta_start=0.9, beta_end=0.9),
    ],
    ids=["a step without noise", "alpha_bar of 0"],
)
def test_a_schedule_that_does_not_add_noise_everywhere_is_refused(schedule: NoiseSchedule) -> None:
    with pytest.raises(BundleFormatError, match="does not add noise at every timestep"):
        TrainedLevels(schedule)
