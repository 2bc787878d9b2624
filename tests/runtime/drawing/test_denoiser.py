"""The U-Net as a function of latents and their noise level."""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import pytest

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.drawing.conditioning import Conditioning
from pocket_diffusion.drawing.denoiser import Denoiser
from pocket_diffusion.drawing.guidance import Guidance
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.schedule import TrainedLevels

SHAPE = (1, 4, 8, 8)
SIGMA = 3.0


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def told(*values: float) -> Conditioning:
    """A prompt whose contexts hold one value each, step by step."""
    return Conditioning(tuple(np.full((1, 2, 3), value, np.float32) for value in values), tuple(range(len(values))))


class Model:
    """Predicts what the contexts hold, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, float, int]] = []

    def __call__(
        self, latents: np.ndarray, timestep: float, context: np.ndarray, shown: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        self.asked.append((latents, timestep, len(context)))
        return np.ones((len(context), *SHAPE[1:]), np.float32) * context[:, :1, :1, None]


def make(
    model: Callable[..., np.ndarray],
    *,
    schedule: NoiseSchedule | None = None,
    prompt: Conditioning | None = None,
    negative: Conditioning | None = None,
    together: bool = True,
    **guidance: object,
) -> Denoiser:
    schedule = schedule or NoiseSchedule()
    levels = Levels(sigmas=(SIGMA, 1.0, 0.0), timesteps=(700.0, 400.0), start=SIGMA, trained=TrainedLevels(schedule))
    settings = Guidance(**{"scale": 1.0, **guidance})
    return Denoiser(model, schedule, levels, prompt or told(0, 0), negative, settings, together=together)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_of_each_kind_gives_the_clean_latents(kind: str) -> None:
    clean, noise = normal(0), normal(1)
    signal, deviation = (1 + SIGMA**2) ** -0.5, SIGMA * (1 + SIGMA**2) ** -0.5
    perfect = {"epsilon": noise, "v_prediction": signal * noise - deviation * clean, "sample": clean}[kind]
    denoise = make(lambda *_: perfect.astype(np.float32), schedule=NoiseSchedule(prediction_type=kind))
    found = denoise(clean + np.float32(SIGMA) * noise, SIGMA)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, clean, atol=2e-6)
    assert denoise.x_0 is found


def test_the_unet_sees_latents_of_unit_variance_and_the_levels_timestep() -> None:
    model = Model()
    denoise = make(model)
    denoise(normal(0) * np.float32(10**0.5), SIGMA)
    ((latents, timestep, _),) = model.asked
    np.testing.assert_allclose(latents, normal(0), rtol=1e-6)
    assert timestep == 700


def test_a_level_between_those_visited_has_a_timestep_between_theirs() -> None:
    model = Model()
    denoise = make(model)
    trained = TrainedLevels(NoiseSchedule())
    denoise(normal(0), float(trained.sigmas[500]))
    assert model.asked[0][1] == pytest.approx(500, abs=1e-6)


def test_contexts_go_by_the_step() -> None:
    model = Model()
    denoise = make(model, prompt=told(0, 5))
    first, second = (denoise.at(step)(np.zeros(SHAPE, np.float32), 1.0) for step in (0, 1))
    assert np.all(first == 0)
    assert np.all(second == -5)


@pytest.mark.parametrize(("together", "runs"), [(True, [2]), (False, [1, 1])])
def test_guidance_is_one_run_or_two(together: bool, runs: list[int]) -> None:
    model = Model()
    denoise = make(model, prompt=told(3, 3), negative=told(1, 1), together=together, scale=2.0)
    found = denoise(np.zeros(SHAPE, np.float32), 1.0)
    np.testing.assert_allclose(found, -5)  # 1 + 2 · (3 − 1), times −sigma
    assert [contexts for *_, contexts in model.asked] == runs


def test_prompts_of_other_lengths_are_two_runs() -> None:
    model = Model()
    longer = Conditioning((np.ones((1, 4, 3), np.float32),), (0, 0))
    make(model, prompt=longer, negative=told(0, 0), scale=2.0)(np.zeros(SHAPE, np.float32), 1.0)
    assert [contexts for *_, contexts in model.asked] == [1, 1]


def test_outside_the_interval_the_unconditional_half_is_not_run() -> None:
    model = Model()
    denoise = make(model, prompt=told(3, 3), negative=told(1, 1), scale=2.0, interval=(0.5, 1.0))
    found = [denoise.at(step)(np.zeros(SHAPE, np.float32), 1.0) for step in (0, 1)]
    assert [contexts for *_, contexts in model.asked] == [1, 2]
    np.testing.assert_allclose(found[0], -3)
    np.testing.assert_allclose(found[1], -5)


def test_clean_latents_are_clipped_where_the_config_asks() -> None:
    schedule = NoiseSchedule(clip_sample=True, clip_sample_range=0.5, prediction_type="sample")
    clean = normal(0)
    np.testing.assert_array_equal(make(lambda *_: clean, schedule=schedule)(clean, 1.0), clean.clip(-0.5, 0.5))


@pytest.mark.parametrize("largest", [1.0, 2.0, 9.0])
def test_dynamic_thresholding_is_that_of_diffusers(largest: float) -> None:
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    schedule = NoiseSchedule(
        thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=largest, prediction_type="sample"
    )
    theirs = diffusers.DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=largest)
    clean = 2 * normal(0)
    expected = theirs._threshold_sample(torch.tensor(clean)).numpy()
    np.testing.assert_allclose(make(lambda *_: clean, schedule=schedule)(clean, 1.0), expected, rtol=1e-5)


def test_the_last_timestep_of_a_zero_terminal_snr_schedule_is_finite() -> None:
    schedule = msgspec.structs.replace(NoiseSchedule(), rescale_betas_zero_snr=True, prediction_type="v_prediction")
    sigma = float(TrainedLevels(schedule).sigmas[-1])
    found = make(lambda *_: -normal(2), schedule=schedule)(np.float32(sigma) * normal(1), sigma)
    # Nothing but noise is left, so that x_0 is −v but for alpha (2⁻¹²) times the noise.
    np.testing.assert_allclose(found, normal(2), atol=2e-3)
