"""Each sampler against diffusers' scheduler of that name: step by step, from the same latents and noise.

Both start each step from diffusers' latents, so that what is compared is the step and the memory behind it. Levels are
diffusers' own (`test_schedulers.py` compares ours with them). Three things are done to diffusers first, none of which
changes its formulas: it gets alpha_bar in float64, since float32 alone costs 1e-4 in DDPM; its sigmas are turned to
float64, so that differences of exponentials do not cancel; and its noise is replaced by ours.

Where diffusers does something else on purpose of ours:

- DDIM and PNDM step to the timestep t - N // n, which is not the next of the list under linspace, nor under trailing
  where n does not divide N. Ours steps to the next, and is left out there; Euler is the same step, on any levels.
- PNDM from the middle (image to image) starts from a list whose second entry is not doubled, and is one level behind
  from then on. Ours begins anew: `test_behaviour.py`.
- LMS from the middle uses the weights of four slopes where there is one, and drops three of them. Ours begins anew.
- PNDM with v-prediction combines velocities of different levels in place of slopes. Ours combines slopes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.samplers.sampler import ancestral_split
from pocket_diffusion.drawing.schedule import cumulative_alphas
from sampling import denoise, levels_at, make, smooth_noise, some_latents

TOLERANCE = 1e-5
"""Relative to the largest latent. Both compute in float64, but for those of diffusers that turn latents to float32:
it keeps 1e-7, of which x - x_0 cancels two digits at small levels."""
STEPS = (1, 2, 3, 10, 20, 50, 100)
LONG = 50
"""Walks of so many steps are taken on two spacings alone: on the others they would repeat the short ones."""
SPACINGS = ("leading", "linspace", "trailing")
CURVES = ("karras", "exponential", "beta")
TRAIN_TIMESTEPS = 1000
SCHEDULE = NoiseSchedule()


def middle(sigma: float, sigma_next: float) -> float:
    return math.sqrt(sigma * sigma_next)


def ancestral_middle(sigma: float, sigma_next: float) -> float:
    return middle(sigma, ancestral_split(sigma, sigma_next, 1.0)[0])


def end(sigma: float, sigma_next: float) -> float:
    return sigma_next


@dataclass(frozen=True)
class Counterpart:
    """One of our samplers and what it is in diffusers."""

    ours: str
    theirs: str
    spacings: tuple[str, ...] = SPACINGS
    settings: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    eta: float | None = None
    scales: bool = True
    """Its latents are x / sqrt(1 + sigma²)."""
    second: Callable[[float, float], float] | None = None
    """The level of a step's second evaluation; none in a step to level 0."""
    from_middle: bool = True
    steps: tuple[int, ...] = STEPS
    tolerance: float = TOLERANCE

    @property
    def prediction_type(self) -> str:
        fallback = "v_prediction" if self.ours == "ipndm" else "epsilon"
        return self.settings.get("prediction_type", fallback)

    @property
    def id(self) -> str:
        return "-".join([self.ours, *map(str, self.settings.values()), *map(str, self.step.values())])


WITH_CURVES = (*SPACINGS, *CURVES)
V = {"prediction_type": "v_prediction"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
COUNTERPARTS = (
    Counterpart("ddpm", "DDPMScheduler", settings={"clip_sample": False}),
    Counterpart("ddpm", "DDPMScheduler", settings={"clip_sample": False, **V}),
    Counterpart("ddim", "DDIMScheduler", ("leading", "trailing"), {"clip_sample": False}, {"eta": 0.0}),
    Counterpart("ddim", "DDIMScheduler", ("leading", "trailing"), {"clip_sample": False}, {"eta": 0.6}, 0.6),
    Counterpart("ddim", "DDIMScheduler", ("leading",), {"clip_sample": False, "set_alpha_to_one": False}),
    Counterpart("ddim", "DDIMScheduler", ("leading",), {"clip_sample": False, **V}, {"eta": 1.0}, 1.0),
    Counterpart("pndm", "PNDMScheduler", ("leading", "trailing"), {"skip_prk_steps": True}, from_middle=False),
    Counterpart("euler", "EulerDiscreteScheduler", WITH_CURVES, scales=False),
    Counterpart("euler", "EulerDiscreteScheduler", settings=V, scales=False),
    Counterpart("euler_a", "EulerAncestralDiscreteScheduler", scales=False),
    Counterpart("euler_a", "EulerAncestralDiscreteScheduler", settings=V, scales=False),
    Counterpart("lms", "LMSDiscreteScheduler", WITH_CURVES, scales=False, from_middle=False),
    Counterpart("heun", "HeunDiscreteScheduler", WITH_CURVES, scales=False, second=end),
    Counterpart("dpm2", "KDPM2DiscreteScheduler", WITH_CURVES, scales=False, second=middle),
    # It takes the difference of two nearly equal squares in float32: 4e-4 of a step from the first level to the last,
    # by how a CPU rounds logarithms.
    Counterpart(
        "dpm2_a",
        "KDPM2AncestralDiscreteScheduler",
        WITH_CURVES,
        scales=False,
        second=ancestral_middle,
        tolerance=1e-3,
    ),
    Counterpart("dpmpp_sde", "DPMSolverSDEScheduler", WITH_CURVES, scales=False, second=middle),
    Counterpart("dpmpp_2m", "DPMSolverMultistepScheduler", WITH_CURVES),
    Counterpart("dpmpp_2m", "DPMSolverMultistepScheduler", settings=V),
    Counterpart("dpmpp_2m_sde", "DPMSolverMultistepScheduler", WITH_CURVES, SDE),
    # Its order 3 has another sign in the SDE version, and a first step of another kind unless it is told so.
    Counterpart(
        "dpmpp_3m_sde",
        "DPMSolverMultistepScheduler",
        WITH_CURVES,
        {"solver_order": 3, "solver_type": "heun", "lower_order_final": False},
        eta=0.0,
    ),
    Counterpart("deis", "DEISMultistepScheduler", WITH_CURVES),
    Counterpart("unipc", "UniPCMultistepScheduler", WITH_CURVES),
    Counterpart("unipc", "UniPCMultistepScheduler", settings=V),
    Counterpart("ipndm", "IPNDMScheduler", ("its own",)),
    Counterpart("lcm", "LCMScheduler", ("leading",), steps=(1, 2, 3, 4, 8, 50)),
    Counterpart("lcm", "LCMScheduler", ("leading",), V, steps=(4,)),
    Counterpart("tcd", "TCDScheduler", ("leading",), steps=(1, 2, 3, 4, 8, 50)),
    Counterpart("tcd", "TCDScheduler", ("leading",), step={"eta": 0.0}, eta=0.0, steps=(4,)),
    Counterpart("tcd", "TCDScheduler", ("leading",), V, {"eta": 1.0}, 1.0, steps=(4,)),
)
CASES = [
    pytest.param(counterpart, spacing, id=f"{counterpart.id}-{spacing}")
    for counterpart in COUNTERPARTS
    for spacing in counterpart.spacings
]


@pytest.fixture(autouse=True)
def same_noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let diffusers' schedulers draw the noise that belongs to the step, in the place of random numbers."""
    pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    from diffusers.schedulers import (
        scheduling_ddim,
        scheduling_ddpm,
        scheduling_dpmsolver_multistep,
        scheduling_euler_ancestral_discrete,
        scheduling_k_dpm_2_ancestral_discrete,
        scheduling_lcm,
        scheduling_tcd,
    )

    def draw(*_: object, **__: object) -> object:
        return torch.from_numpy(smooth_noise(*STEP))

    for module in (
        scheduling_ddim,
        scheduling_ddpm,
        scheduling_dpmsolver_multistep,
        scheduling_euler_ancestral_discrete,
        scheduling_k_dpm_2_ancestral_discrete,
        scheduling_lcm,
        scheduling_tcd,
    ):
        monkeypatch.setattr(module, "randn_tensor", draw)
    yield
    STEP.clear()


STEP: list[float] = []
"""The levels of the step that is being taken."""


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # PyTorch's, under NumPy 2
@pytest.mark.parametrize(("counterpart", "spacing"), CASES)
def test_steps_as_diffusers_does(counterpart: Counterpart, spacing: str) -> None:
    for steps in counterpart.steps:
        if counterpart.ours in ("ddim", "pndm") and spacing == "trailing" and TRAIN_TIMESTEPS % steps:
            continue
        if steps >= LONG and spacing not in (counterpart.spacings[0], "karras"):
            continue
        for start in sorted({0, steps // 2} if counterpart.from_middle and steps < LONG else {0}):
            error = worst_error(counterpart, spacing, steps, start)
            assert error <= counterpart.tolerance, f"{steps} steps from {start}: {error:.2g}"


def worst_error(counterpart: Counterpart, spacing: str, steps: int, start: int) -> float:
    """Walk with both, and return the largest difference of a step's end in proportion to the largest latent."""
    import torch

    theirs, levels = prepare(counterpart, spacing, steps)
    evaluation = start * (2 if counterpart.second else 1)
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(evaluation)
    ours = make(counterpart.ours, levels, counterpart.eta)
    x, errors = some_latents(levels.sigmas[start], np.float64), []
    for i in range(start, levels.steps):
        STEP[:] = levels.sigmas[i : i + 2]
        found = ours.step(x.copy(), i, denoise, smooth_noise)
        evaluations = evaluated_at(counterpart, i, levels, doubled=i == start)
        for k, at in enumerate(evaluations):
            timestep = theirs.timesteps[evaluation]
            evaluation += 1
            scale = 1 / math.hypot(1, at) if counterpart.scales else 1
            prediction = predict(x, at, counterpart.prediction_type)
            sample = torch.from_numpy(x * scale)
            out = theirs.step(torch.from_numpy(prediction), timestep, sample, **counterpart.step).prev_sample
            target = evaluations[k + 1] if k + 1 < len(evaluations) else levels.sigmas[i + 1]
            x = out.numpy() * (math.hypot(1, target) if counterpart.scales else 1)
        errors.append(np.abs(found - x).max() / np.abs(x).max())
    return float(max(errors))


def evaluated_at(counterpart: Counterpart, i: int, levels: Levels, *, doubled: bool) -> list[float]:
    """Return the levels at which diffusers evaluates the model in a step."""
    sigma, sigma_next = levels.sigmas[i : i + 2]
    if counterpart.ours == "pndm" and doubled and levels.steps > 1:
        return [sigma, sigma_next]
    if counterpart.second is None or sigma_next == 0:
        return [sigma]
    return [sigma, counterpart.second(sigma, sigma_next)]


def predict(x: np.ndarray, sigma: float, prediction_type: str) -> np.ndarray:
    """Return what a U-Net of that kind says where the model sees `denoise`'s x_0."""
    x_0 = denoise(x, sigma)
    epsilon = (x - x_0) / sigma
    return epsilon if prediction_type == "epsilon" else (epsilon - sigma * x_0) / math.hypot(1, sigma)


@cache
def build(theirs: str, spacing: str, settings: tuple[tuple[str, Any], ...]) -> Any:  # noqa: ANN401
    diffusers = pytest.importorskip("diffusers")
    if theirs == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    if theirs == "LMSDiscreteScheduler" or spacing == "beta":
        pytest.importorskip("scipy")
    placing = {f"use_{spacing}_sigmas": True} if spacing in CURVES else {"timestep_spacing": spacing}
    offset = {} if theirs == "TCDScheduler" or spacing in CURVES else {"steps_offset": SCHEDULE.steps_offset}
    return getattr(diffusers, theirs)(
        beta_start=SCHEDULE.beta_start,
        beta_end=SCHEDULE.beta_end,
        beta_schedule=SCHEDULE.beta_schedule,
        **placing,
        **offset,
        **dict(settings),
    )


def prepare(counterpart: Counterpart, spacing: str, steps: int) -> tuple[Any, Levels]:
    """Return diffusers' scheduler, ready to step, and its levels."""
    import torch

    if counterpart.ours == "ipndm":
        return prepare_ipndm(steps)
    theirs = build(counterpart.theirs, spacing, tuple(counterpart.settings.items()))
    alphas = torch.from_numpy(cumulative_alphas(SCHEDULE))
    theirs.alphas_cumprod = alphas
    theirs.set_timesteps(steps)
    theirs.is_scale_input_called = True
    if hasattr(theirs, "sigmas"):
        theirs.sigmas = theirs.sigmas.double()
        if counterpart.ours == "lms":
            theirs.sigmas = theirs.sigmas.numpy()  # its quadrature evaluates a polynomial thousands of times
        sigmas = list(dict.fromkeys(theirs.sigmas.tolist()))
        if sigmas[-1] != 0 and len(sigmas) == steps:  # the level of timestep 0, twice
            sigmas.append(sigmas[-1])
        stride = 2 if counterpart.second else 1
        timesteps = theirs.timesteps[::stride].tolist()
    else:
        timesteps = list(dict.fromkeys(theirs.timesteps.tolist()))
        last = {"tcd": alphas[0], "pndm": alphas[0]}.get(counterpart.ours, torch.ones(()))
        if counterpart.settings.get("set_alpha_to_one") is False:
            last = alphas[0]
        theirs.final_alpha_cumprod = last
        at = torch.cat([alphas[torch.tensor(timesteps)], last[None]])
        sigmas = ((1 - at) / at).sqrt().tolist()
    if counterpart.theirs == "DPMSolverSDEScheduler":
        theirs.noise_sampler = lambda a, b: torch.from_numpy(smooth_noise(float(a), float(b)))
    assert len(sigmas) == len(timesteps) + 1 == steps + 1
    return theirs, levels_at(sigmas, timesteps)


def prepare_ipndm(steps: int) -> tuple[Any, Levels]:
    """Give diffusers' IPNDM, whose schedule is another model's, the levels of ours."""
    import torch
    from diffusers import IPNDMScheduler

    sigmas = np.append(np.geomspace(14.6, 0.03, steps), 0) if steps > 1 else np.array([14.6, 0])
    betas = sigmas / np.hypot(1, sigmas)
    theirs = IPNDMScheduler(trained_betas=betas.tolist())
    theirs.set_timesteps(steps)
    theirs.betas, theirs.alphas = torch.from_numpy(betas), torch.from_numpy(1 / np.hypot(1, sigmas))
    return theirs, levels_at(sigmas)
