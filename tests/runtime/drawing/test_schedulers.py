"""Levels of every scheduler and family: against diffusers where it is installed, else against formulas."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.drawing.schedule import TrainedLevels, cumulative_alphas
from pocket_diffusion.drawing.schedulers import (
    DDIM_FAMILY,
    DDPM_FAMILY,
    DEIS_FAMILY,
    KDPM2_FAMILY,
    LCM_FAMILY,
    MULTISTEP_FAMILY,
    PNDM_FAMILY,
    SCHEDULERS,
    SIGMA_FAMILY,
    TCD_FAMILY,
    Family,
    find_scheduler,
    make_levels,
)
from pocket_diffusion.errors import InvalidRequestError

# diffusers' own mixing of NumPy 2 and PyTorch
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SPACINGS = ["leading", "linspace", "trailing"]
STEPS = (1, 2, 3, 7, 10, 20, 25, 50, 99, 100)
SD = NoiseSchedule()
SCHEDULES = {
    "scaled_linear": SD,
    "linear, no offset": NoiseSchedule(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, steps_offset=0),
    "trained": NoiseSchedule(train_timesteps=200, trained_betas=tuple(np.geomspace(1e-3, 0.2, 200).tolist())),
}
FAMILIES = {
    "ddpm": DDPM_FAMILY,
    "ddim": DDIM_FAMILY,
    "pndm": PNDM_FAMILY,
    "sigma": SIGMA_FAMILY,
    "kdpm2": KDPM2_FAMILY,
    "multistep": MULTISTEP_FAMILY,
    "deis": DEIS_FAMILY,
    "lcm": LCM_FAMILY,
    "tcd": TCD_FAMILY,
}
Visit = Callable[[Any], Any]


@dataclass(frozen=True)
class Theirs:
    """A scheduler of diffusers, and where it keeps the levels that it visits."""

    name: str
    family: Family
    timesteps: Visit = lambda scheduler: scheduler.timesteps
    sigmas: Visit | None = lambda scheduler: scheduler.sigmas
    """None: it has cumulative alphas alone."""
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, schedule: NoiseSchedule, spacing: str, **options: Any) -> Any:  # noqa: ANN401
        torch = pytest.importorskip("torch")
        diffusers = pytest.importorskip("diffusers")
        scheduler = getattr(diffusers, self.name)(
            num_train_timesteps=schedule.train_timesteps,
            beta_start=schedule.beta_start,
            beta_end=schedule.beta_end,
            beta_schedule=schedule.beta_schedule,
            trained_betas=schedule.trained_betas,
            timestep_spacing=spacing,
            steps_offset=schedule.steps_offset,
            **self.options,
            **options,
        )
        # Theirs is a product of 1000 float32 numbers, which alone costs 2e-5 of a sigma.
        scheduler.alphas_cumprod = torch.from_numpy(cumulative_alphas(schedule))
        return scheduler


def heun(values: Any) -> Any:  # noqa: ANN401
    return [values[0], *values[1::2]]


def kdpm2_timesteps(scheduler: Any) -> Any:  # noqa: ANN401
    return scheduler.timesteps[::2]  # between two of them it visits one in their middle


DISCRETE = [
    Theirs("DDPMScheduler", DDPM_FAMILY, sigmas=None),
    Theirs("DDIMScheduler", DDIM_FAMILY, sigmas=None),
    # timesteps would have one of them twice
    Theirs("PNDMScheduler", PNDM_FAMILY, lambda scheduler: scheduler._timesteps[::-1], None, {"skip_prk_steps": True}),
]
SIGMA = [
    Theirs("EulerDiscreteScheduler", SIGMA_FAMILY),
    Theirs("EulerAncestralDiscreteScheduler", SIGMA_FAMILY),
    Theirs("LMSDiscreteScheduler", SIGMA_FAMILY),
    Theirs("HeunDiscreteScheduler", SIGMA_FAMILY, lambda s: heun(s.timesteps), lambda s: heun(s.sigmas)),
    Theirs("KDPM2DiscreteScheduler", KDPM2_FAMILY, kdpm2_timesteps, lambda s: heun(s.sigmas[:-1])),
    Theirs("KDPM2AncestralDiscreteScheduler", KDPM2_FAMILY, kdpm2_timesteps, lambda s: heun(s.sigmas[:-1])),
]
MULTISTEP = [
    Theirs("DPMSolverMultistepScheduler", MULTISTEP_FAMILY),
    Theirs("UniPCMultistepScheduler", MULTISTEP_FAMILY),
    Theirs("DEISMultistepScheduler", DEIS_FAMILY),
]
DISTILLED = [Theirs("LCMScheduler", LCM_FAMILY, sigmas=None), Theirs("TCDScheduler", TCD_FAMILY, sigmas=None)]


def by_name(value: object) -> str | None:
    return value.name if isinstance(value, Theirs) else None


def sigmas_of(schedule: NoiseSchedule) -> NDArray[np.float64]:
    alpha_bar = cumulative_alphas(schedule)
    return np.sqrt((1 - alpha_bar) / alpha_bar)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("theirs", DISCRETE + SIGMA + MULTISTEP + DISTILLED, ids=by_name)
def test_spacings_are_those_of_diffusers(theirs: Theirs, spacing: str, schedule: NoiseSchedule) -> None:
    scheduler = theirs.make(schedule, spacing)
    for steps in STEPS:
        if theirs in DISTILLED and steps > 50:
            continue
        scheduler.set_timesteps(steps)
        ours = make_levels(schedule, spacing, steps, theirs.family)
        timesteps = np.array(theirs.timesteps(scheduler), np.float64)[:steps]  # rounding can make theirs one longer
        # whole ones are exact; linspace's are kept in float32
        np.testing.assert_allclose(ours.timesteps, timesteps, atol=1e-4 if theirs in SIGMA else 0)
        if theirs.sigmas is None:
            np.testing.assert_allclose(ours.sigmas[:-1], sigmas_of(schedule)[timesteps.astype(int)], rtol=1e-12)
        else:
            sigmas = np.array(theirs.sigmas(scheduler), np.float64)
            # theirs in float32, and timesteps, too, where they are not whole
            np.testing.assert_allclose(ours.sigmas[:-1], sigmas[:steps], rtol=2e-6)
            np.testing.assert_allclose(ours.sigmas[-1], sigmas[-1], rtol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("theirs", SIGMA, ids=by_name)
def test_noise_starts_as_large_as_in_diffusers(theirs: Theirs, spacing: str) -> None:
    scheduler = theirs.make(SD, spacing)
    scheduler.set_timesteps(20)
    ours = make_levels(SD, spacing, 20, theirs.family)
    assert ours.start == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-6)  # theirs in float32


@pytest.mark.parametrize("theirs", DISCRETE + MULTISTEP + DISTILLED, ids=by_name)
def test_noise_of_variance_one_starts_the_variance_preserving_ones(theirs: Theirs) -> None:
    assert float(theirs.make(SD, "linspace").init_noise_sigma) == 1
    for scheduler in ("leading", "trailing", "karras"):
        ours = make_levels(SD, scheduler, 20, theirs.family)
        assert ours.start / (1 + ours.sigmas[0] ** 2) ** 0.5 == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("set_alpha_to_one", [None, True, False])
@pytest.mark.parametrize("theirs", DISCRETE[1:], ids=by_name)
def test_ddim_and_pndm_end_as_in_diffusers(theirs: Theirs, set_alpha_to_one: bool | None) -> None:
    options = {} if set_alpha_to_one is None else {"set_alpha_to_one": set_alpha_to_one}
    final_alpha = float(theirs.make(SD, "leading", **options).final_alpha_cumprod)
    ours = make_levels(NoiseSchedule(set_alpha_to_one=set_alpha_to_one), "leading", 10, theirs.family).sigmas[-1]
    assert 1 / (1 + ours * ours) == pytest.approx(final_alpha, rel=1e-7)  # theirs in float32


def test_ddpm_and_lcm_end_without_noise_and_tcd_at_timestep_0() -> None:
    schedule = NoiseSchedule(set_alpha_to_one=False)  # which does not concern them
    lasts = [make_levels(schedule, "leading", 4, family).sigmas[-1] for family in (DDPM_FAMILY, LCM_FAMILY, TCD_FAMILY)]
    assert lasts == [0, 0, TrainedLevels(SD).sigmas[0]]


CURVES = ["karras", "exponential", "beta"]
WITH_CURVES = [theirs for theirs in SIGMA + MULTISTEP if "Ancestral" not in theirs.name]  # Euler's has no curves


@pytest.mark.parametrize("schedule", [SD, SCHEDULES["trained"]], ids=["scaled_linear", "trained"])
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("theirs", WITH_CURVES, ids=by_name)
def test_curves_are_those_of_diffusers(theirs: Theirs, curve: str, schedule: NoiseSchedule) -> None:
    pytest.importorskip("scipy")  # their beta needs it
    scheduler = theirs.make(schedule, "linspace", **{f"use_{curve}_sigmas": True})
    for steps in STEPS:
        if theirs in SIGMA and steps == 1:  # linspace puts it at timestep 0, and the curve with it
            continue
        scheduler.set_timesteps(steps)
        ours = make_levels(schedule, curve, steps, theirs.family)
        sigmas = np.array(theirs.sigmas(scheduler), np.float64)[:steps]  # DEIS's last is the last but one again
        np.testing.assert_allclose(ours.sigmas[:-1], sigmas, rtol=1e-6)  # theirs in float32
        timesteps = np.array(theirs.timesteps(scheduler), np.float64)
        whole = curve in theirs.family.rounded | theirs.family.truncated
        np.testing.assert_allclose(ours.timesteps, timesteps, atol=0 if whole else 1e-4)  # theirs in float32
        assert ours.sigmas[-1] == 0


@pytest.mark.parametrize("theirs", [DISCRETE[0], DISCRETE[1], *DISTILLED], ids=by_name)
def test_zero_snr_leaves_nothing_where_diffusers_leaves_nothing(theirs: Theirs) -> None:
    scheduler = getattr(pytest.importorskip("diffusers"), theirs.name)(rescale_betas_zero_snr=True)
    assert scheduler.alphas_cumprod[-1] == 0
    levels = make_levels(NoiseSchedule(rescale_betas_zero_snr=True), "trailing", 10, theirs.family)
    assert levels.timesteps[0] == 999
    # what is left of the picture, beside the float32 noise
    assert (1 + levels.sigmas[0] ** 2) ** -0.5 < np.finfo(np.float32).eps
    assert levels.start == pytest.approx(levels.sigmas[0])
    assert levels.trained.sigmas[-1] == levels.sigmas[0]


@pytest.mark.parametrize("theirs", [*SIGMA[:2], *MULTISTEP[:2]], ids=by_name)
def test_zero_snr_starts_at_4096_where_diffusers_does(theirs: Theirs) -> None:
    diffusers = pytest.importorskip("diffusers")
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = getattr(diffusers, theirs.name)(rescale_betas_zero_snr=True, timestep_spacing="trailing", **options)
    scheduler.set_timesteps(10)
    levels = make_levels(NoiseSchedule(rescale_betas_zero_snr=True), "trailing", 10, theirs.family)
    assert levels.sigmas[0] == pytest.approx(4096, rel=1e-6)
    # theirs is a product of 1000 float32 numbers
    np.testing.assert_allclose(levels.sigmas, scheduler.sigmas.numpy(), rtol=1e-4)


def test_zero_snr_curves_start_at_4096_whatever_the_family() -> None:
    levels = make_levels(NoiseSchedule(rescale_betas_zero_snr=True), "karras", 10, DDIM_FAMILY)
    assert levels.sigmas[0] == pytest.approx(4096, rel=1e-6)


def levels_of(scheduler: str, steps: int) -> tuple[list[float], list[float]]:
    levels = make_levels(SD, scheduler, steps, SIGMA_FAMILY)
    return list(levels.sigmas), list(levels.timesteps)


def test_normal_is_even_in_timesteps_down_to_the_first() -> None:
    sigmas, timesteps = levels_of("normal", 4)
    np.testing.assert_allclose(timesteps, [999, 666, 333, 0], atol=1e-9)  # back from log sigma in float64
    np.testing.assert_allclose(sigmas, [*sigmas_of(SD)[[999, 666, 333, 0]], 0], rtol=1e-12)


def test_normal_interpolates_log_sigma_as_k_diffusion_does() -> None:
    sigmas, _ = levels_of("normal", 3)
    assert sigmas[1] == pytest.approx((sigmas_of(SD)[499] * sigmas_of(SD)[500]) ** 0.5, rel=1e-12)


def test_sgm_uniform_leaves_the_first_timestep_out() -> None:
    sigmas, timesteps = levels_of("sgm_uniform", 3)
    np.testing.assert_allclose(timesteps, [999, 666, 333], atol=1e-9)  # back from log sigma in float64
    np.testing.assert_allclose(sigmas, [*sigmas_of(SD)[[999, 666, 333]], 0], rtol=1e-12)


def test_simple_takes_every_nth_level_from_the_last() -> None:
    sigmas, _ = levels_of("simple", 7)
    expected = [sigmas_of(SD)[-(1 + int(x * 1000 / 7))] for x in range(7)]
    np.testing.assert_allclose(sigmas, [*expected, 0], rtol=1e-12)


def test_ddim_uniform_takes_every_nth_level_from_timestep_1() -> None:
    sigmas, _ = levels_of("ddim_uniform", 7)
    np.testing.assert_allclose(sigmas, [*sigmas_of(SD)[[853, 711, 569, 427, 285, 143, 1]], 0], rtol=1e-12)


def test_ddim_uniform_takes_all_timesteps_at_most() -> None:
    sigmas, _ = levels_of("ddim_uniform", 1000)
    np.testing.assert_allclose(sigmas, [*sigmas_of(SD)[::-1], 0], rtol=1e-12)


def test_align_your_steps_is_the_published_table_at_10_steps() -> None:
    schedules = pytest.importorskip("diffusers.schedulers").AysSchedules
    sigmas, timesteps = levels_of("align_your_steps", 10)
    np.testing.assert_allclose(sigmas, schedules["StableDiffusionSigmas"], rtol=5e-5)  # the end is rounded to 14.615
    np.testing.assert_allclose(timesteps, schedules["StableDiffusionTimesteps"], atol=0.6)  # whole ones


def test_align_your_steps_interpolates_log_sigma() -> None:
    ten, twenty = levels_of("align_your_steps", 10)[0], levels_of("align_your_steps", 20)[0]
    np.testing.assert_allclose(twenty[:-2:2], ten[:-1], rtol=1e-12)
    np.testing.assert_allclose(twenty[1:-3:2], np.sqrt(np.multiply(ten[:-2], ten[1:-1])), rtol=1e-12)


def test_align_your_steps_covers_another_models_range() -> None:
    schedule = SCHEDULES["linear, no offset"]
    levels = make_levels(schedule, "align_your_steps", 10, SIGMA_FAMILY)
    assert levels.sigmas[0] == pytest.approx(sigmas_of(schedule)[-1], rel=1e-9)


def test_one_step_of_a_curve_leads_from_the_last_timestep_to_0() -> None:
    for name in [row.name for row in SCHEDULERS.values() if row.curve and row.name != "ddim_uniform"]:
        sigmas, timesteps = levels_of(name, 1)
        assert sigmas == pytest.approx([sigmas_of(SD)[-1], 0], rel=1e-9), name
        assert timesteps == pytest.approx([999]), name


@given(
    st.sampled_from(sorted(SCHEDULERS)),
    st.sampled_from(sorted(FAMILIES)),
    st.integers(1, 1000),
    st.sampled_from([0, 1]),
    st.booleans(),
    st.sampled_from([1000, 60, 7]),
)
def test_levels_are_as_many_as_asked_fall_and_stay_inside(
    scheduler: str, family: str, steps: int, offset: int, zero_snr: bool, count: int
) -> None:
    schedule = NoiseSchedule(train_timesteps=count, steps_offset=offset, rescale_betas_zero_snr=zero_snr)
    try:
        levels = make_levels(schedule, scheduler, steps, FAMILIES[family])
    except InvalidRequestError:
        assert steps >= min(50, count)  # fewer fit everywhere
        assume(False)
    sigmas, timesteps, trained = np.array(levels.sigmas), np.array(levels.timesteps), levels.trained.sigmas
    assert sigmas.shape == (steps + 1,)
    assert timesteps.shape == (steps,)
    assert levels.steps == steps
    assert (np.diff(sigmas[:-1]) < 0).all()
    assert 0 <= sigmas[-1] <= sigmas[-2]
    assert (np.diff(timesteps) <= 0).all()  # rounded ones may be equal
    assert timesteps.min() >= 0
    assert timesteps.max() <= count - 1
    # as much as a power and its root may lose
    assert sigmas[:-1].min() >= trained[0] * (1 - 1e-12)
    assert sigmas.max() <= trained[-1] * (1 + 1e-12)
    assert all(type(number) is float for number in (*levels.sigmas, *levels.timesteps, levels.start))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_an_offset_does_not_lead_past_the_last_timestep(family: Family) -> None:
    steps = 50 if family.original_steps else 1000 - family.levels_ahead
    levels = make_levels(NoiseSchedule(steps_offset=1), "leading", steps, family)
    assert levels.timesteps[0] == 999


def test_trailing_has_as_many_levels_as_asked_where_rounding_leads_one_further() -> None:
    assert len(np.arange(1000, 0, -1000 / 61)) == 62
    assert make_levels(SD, "trailing", 61, DDPM_FAMILY).timesteps[-1] == round(1000 / 61) - 1


def test_linspace_is_not_limited_where_its_timesteps_are_not_whole() -> None:
    assert make_levels(NoiseSchedule(train_timesteps=7), "linspace", 13, SIGMA_FAMILY).timesteps[1] == 5.5


@pytest.mark.parametrize(
    ("scheduler", "steps", "family", "message"),
    [
        ("karras", 0, SIGMA_FAMILY, "steps must be at least 1, not 0"),
        ("trailing", 0, DDPM_FAMILY, "steps must be from 1 to 1000, not 0: the scheduler trailing takes whole"),
        ("leading", 1001, SIGMA_FAMILY, "steps must be from 1 to 1000, not 1001: the scheduler leading takes whole"),
        ("linspace", 1000, DEIS_FAMILY, "steps must be from 1 to 999, not 1000: the scheduler linspace takes whole"),
        ("simple", 1001, DDPM_FAMILY, "steps must be from 1 to 1000, not 1001: the scheduler simple takes whole"),
        ("trailing", 51, LCM_FAMILY, "steps must be from 1 to 50, not 51: the model was distilled for no more"),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(scheduler: str, steps: int, family: Family, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        make_levels(SD, scheduler, steps, family)


def test_a_distilled_model_of_few_timesteps_takes_no_more_steps_than_those() -> None:
    few = NoiseSchedule(train_timesteps=7)
    assert make_levels(few, "leading", 7, LCM_FAMILY).timesteps == (6, 5, 4, 3, 2, 1, 0)
    with pytest.raises(InvalidRequestError, match="steps must be from 1 to 7, not 8"):
        make_levels(few, "leading", 8, LCM_FAMILY)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("karras", "karras"),
        ("Karras", "karras"),
        ("Uniform", "normal"),
        ("SGM Uniform", "sgm_uniform"),
        ("sgm-uniform", "sgm_uniform"),
        ("SGMUniform", "sgm_uniform"),
        ("DDIM", "ddim_uniform"),
        ("Align Your Steps", "align_your_steps"),
        ("AYS", "align_your_steps"),
    ],
)
def test_a1111s_labels_and_aliases_are_understood(name: str, found: str) -> None:
    assert find_scheduler(name).name == found


@pytest.mark.parametrize("row", SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_scheduler_is_found_by_name_label_and_alias(row: Any) -> None:  # noqa: ANN401
    for name in (row.name, row.label, *row.aliases):
        assert find_scheduler(name) is row


def test_an_unknown_scheduler_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match=r"scheduler 'karas' is not known; did you mean karras\? "):
        find_scheduler("karas")
