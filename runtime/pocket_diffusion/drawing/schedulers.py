"""Schedulers: how a drawing's steps are spaced over the noise levels that a model was trained at."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.drawing.beta_distribution import symmetric_beta_quantile
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.names import look_up, plain
from pocket_diffusion.drawing.schedule import EXACT_TERMINAL_ALPHA, FINITE_TERMINAL_ALPHA, TrainedLevels
from pocket_diffusion.errors import InvalidRequestError

Array = NDArray[np.float64]
Curve = Callable[[TrainedLevels, int], Array]
"""(trained levels, steps) → falling sigmas `[steps]`; the level after them is 0."""


@dataclass(frozen=True)
class Family:
    """How diffusers' scheduler of a sampler places its levels; each sampler names its family."""

    spacing: str = "leading"
    """The one that diffusers takes where a checkpoint's configuration names none."""
    whole: bool = True
    """Timesteps are whole numbers, also under linspace."""
    levels_ahead: int = 0
    """Further levels that count in the spacing but are not visited."""
    original_steps: int | None = None
    """The number of steps in the model's distillation; the timesteps are a subset of those, whatever the spacing."""
    ends_at_zero: bool = True
    """The last level is 0, not that of timestep 0."""
    obeys_set_alpha_to_one: bool = False
    """The checkpoint's `set_alpha_to_one`, where it has one, overrules `ends_at_zero`."""
    variance_preserving: bool = True
    """Drawing starts from noise of variance 1 in the form x / sqrt(1 + sigma²)."""
    terminal_alpha: float = FINITE_TERMINAL_ALPHA
    """The last alpha_bar of a zero-terminal-SNR schedule, under diffusers' spacings."""
    rounded: frozenset[str] = frozenset()
    """Schedulers whose timesteps diffusers rounds."""
    truncated: frozenset[str] = frozenset()
    """Schedulers whose timesteps diffusers truncates; in its float32 the last timestep can become the one before."""


DDPM_FAMILY = Family(terminal_alpha=EXACT_TERMINAL_ALPHA)
DDIM_FAMILY = replace(DDPM_FAMILY, obeys_set_alpha_to_one=True)
PNDM_FAMILY = replace(DDIM_FAMILY, ends_at_zero=False)
SIGMA_FAMILY = Family(spacing="linspace", whole=False, variance_preserving=False)
"""Euler, Euler ancestral, LMS, Heun, DPM-Solver SDE."""
KDPM2_FAMILY = replace(SIGMA_FAMILY, rounded=frozenset({"karras"}))
"""KDPM2 and KDPM2 ancestral."""
MULTISTEP_FAMILY = Family(
    spacing="linspace", levels_ahead=1, rounded=frozenset({"karras"}), truncated=frozenset({"exponential", "beta"})
)
"""DPM-Solver multistep and UniPC."""
DEIS_FAMILY = replace(MULTISTEP_FAMILY, ends_at_zero=False)
LCM_FAMILY = replace(DDPM_FAMILY, original_steps=50)
TCD_FAMILY = replace(LCM_FAMILY, ends_at_zero=False)


@dataclass(frozen=True)
class Scheduler:
    """A row of `SCHEDULERS`."""

    name: str
    label: str
    """As A1111's interface writes it."""
    summary: str
    """A sentence for people who choose."""
    curve: Curve | None = None
    """None for diffusers' spacings, which depend on the sampler's family."""
    aliases: tuple[str, ...] = ()
    whole: bool = False
    """It visits whole timesteps, so it takes no more steps than there are timesteps."""


def make_levels(schedule: NoiseSchedule, scheduler: str, steps: int, family: Family) -> Levels:
    """Return the noise levels of a drawing.

    Curves span all trained levels and end at 0, whatever the family. Leading, linspace and trailing are those of the
    family's scheduler in diffusers.

    Raises:
        InvalidRequestError: the scheduler is not known, or cannot take so many steps.
        BundleFormatError: the noise schedule makes no sense.

    """
    row = find_scheduler(scheduler)
    _check_steps(schedule, row, steps, family)
    last = 0.0
    if row.curve is None:
        trained = TrainedLevels(schedule, family.terminal_alpha)
        timesteps = _spaced_timesteps(schedule, row.name, steps, family)
        # diffusers' Euler is linear in sigma here, unlike TrainedLevels.sigma
        sigmas = np.interp(timesteps, np.arange(schedule.train_timesteps), trained.sigmas)
        if not _ends_at_zero(schedule, family):
            last = float(trained.sigmas[0])
    else:
        trained = TrainedLevels(schedule)
        sigmas = row.curve(trained, steps)
        timesteps = trained.timestep(sigmas)
        if row.name in family.rounded:
            timesteps = timesteps.round()
        elif row.name in family.truncated:
            timesteps = np.floor(timesteps)
    first = float(sigmas[0])
    from_unit_variance = family.variance_preserving or row.name == "leading"
    return Levels(
        sigmas=(*sigmas.tolist(), last),
        timesteps=tuple(timesteps.tolist()),
        start=math.hypot(first, 1) if from_unit_variance else first,
        trained=trained,
    )


def _check_steps(schedule: NoiseSchedule, row: Scheduler, steps: int, family: Family) -> None:
    most, reason = None, ""
    if row.curve is None and family.original_steps is not None:
        most = min(family.original_steps, schedule.train_timesteps)
        reason = "the model was distilled for no more"
    elif row.whole and (family.whole or row.name != "linspace"):
        most = schedule.train_timesteps - (family.levels_ahead if row.curve is None else 0)
        reason = f"the scheduler {row.name} takes whole training timesteps"
    if most is None and steps < 1:
        raise InvalidRequestError(f"steps must be at least 1, not {steps}")
    if most is not None and not 1 <= steps <= most:
        raise InvalidRequestError(f"steps must be from 1 to {most}, not {steps}: {reason}")


def _ends_at_zero(schedule: NoiseSchedule, family: Family) -> bool:
    if family.obeys_set_alpha_to_one and schedule.set_alpha_to_one is not None:
        return schedule.set_alpha_to_one
    return family.ends_at_zero


def _spaced_timesteps(schedule: NoiseSchedule, spacing: str, steps: int, family: Family) -> Array:
    """Return falling timesteps `[steps]` as diffusers' schedulers space them (Lin et al. 2023, table 2)."""
    count, placed = schedule.train_timesteps, steps + family.levels_ahead
    if family.original_steps is not None:  # Luo et al. 2023, section 4.3
        return _distilled_timesteps(count, steps, family.original_steps)
    if spacing == "leading":
        return _leading_timesteps(count, placed, schedule.steps_offset)[:steps]
    if spacing == "linspace":
        timesteps = np.linspace(0, count - 1, placed)[::-1][:steps]
        return timesteps.round() if family.whole else timesteps
    # Rounding errors can make arange one longer.
    return np.arange(count, 0, -count / steps).round()[:steps] - 1


def _leading_timesteps(count: int, steps: int, offset: int) -> Array:
    stride = count // steps
    # With as many steps as timesteps, diffusers' offset leads past the end.
    offset = min(offset, count - 1 - (steps - 1) * stride)
    return np.arange(steps, dtype=np.float64)[::-1] * stride + offset


def _distilled_timesteps(count: int, steps: int, original_steps: int) -> Array:
    original = min(original_steps, count)
    falling = np.arange(original, 0, -1, dtype=np.float64) * (count // original) - 1
    return falling[np.arange(steps) * original // steps]


def _normal(trained: TrainedLevels, steps: int) -> Array:
    return trained.sigma(np.linspace(len(trained.sigmas) - 1, 0, steps))


def _karras(trained: TrainedLevels, steps: int, rho: float = 7.0) -> Array:
    """Karras et al. 2022, equation 5."""
    low, high = trained.sigmas[0] ** (1 / rho), trained.sigmas[-1] ** (1 / rho)
    sigmas: Array = np.linspace(high, low, steps) ** rho
    return sigmas


def _exponential(trained: TrainedLevels, steps: int) -> Array:
    return np.geomspace(trained.sigmas[-1], trained.sigmas[0], steps)


def _beta(trained: TrainedLevels, steps: int, shape: float = 0.6) -> Array:
    """Lee et al. 2024 (arXiv:2407.12173), in sigma as diffusers and A1111 have it, not in timesteps."""
    low, high = trained.sigmas[0], trained.sigmas[-1]
    sigmas: Array = low + (high - low) * symmetric_beta_quantile(np.linspace(1, 0, steps), shape)
    return sigmas


def _sgm_uniform(trained: TrainedLevels, steps: int) -> Array:
    return trained.sigma(np.linspace(len(trained.sigmas) - 1, 0, steps + 1)[:-1])


def _simple(trained: TrainedLevels, steps: int) -> Array:
    count = len(trained.sigmas)
    return trained.sigmas[count - 1 - np.arange(steps) * count // steps]


def _ddim_uniform(trained: TrainedLevels, steps: int) -> Array:
    timesteps = _leading_timesteps(len(trained.sigmas), steps, offset=1)
    return trained.sigma(timesteps)


_ALIGN_YOUR_STEPS = (14.61464, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029167)
"""Sabour et al. 2024, for Stable Diffusion 1.5. The ends are that model's own, published as 14.615 and 0.029."""


def _align_your_steps(trained: TrainedLevels, steps: int) -> Array:
    """Interpolate the published table log-linearly, as its authors do, and stretch it to the model's own range."""
    table = np.log(_ALIGN_YOUR_STEPS)
    logs = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(table)), table)
    low, high = np.log(trained.sigmas[[0, -1]])
    position = (logs - table[-1]) / (table[0] - table[-1])
    sigmas: Array = np.exp(low + (high - low) * position)[:-1]
    return sigmas


SCHEDULERS: dict[str, Scheduler] = {
    row.name: row
    for row in (
        Scheduler("normal", "Normal", "Even steps in training timesteps; a plain choice.", _normal, ("uniform",)),
        Scheduler(
            "karras", "Karras", "Many small steps near the end; sharp details in few steps, with DPM++.", _karras
        ),
        Scheduler("exponential", "Exponential", "Even steps in log sigma; smooth backgrounds.", _exponential),
        Scheduler("beta", "Beta", "Small steps at both ends: composition and details.", _beta),
        Scheduler(
            "sgm_uniform",
            "SGM Uniform",
            "As normal, but the last step goes all the way to 0; for distilled models.",
            _sgm_uniform,
        ),
        Scheduler("simple", "Simple", "Even steps in whole timesteps, down from the last one.", _simple, whole=True),
        Scheduler(
            "ddim_uniform",
            "DDIM",
            "The DDIM paper's even steps in whole timesteps, up from the first one.",
            _ddim_uniform,
            whole=True,
        ),
        Scheduler(
            "align_your_steps",
            "Align Your Steps",
            "Levels optimized for Stable Diffusion 1.5; good from 10 steps.",
            _align_your_steps,
            ("ays",),
        ),
        Scheduler("leading", "Leading", "diffusers' spacing for most checkpoints; not from full noise.", whole=True),
        Scheduler("linspace", "Linspace", "diffusers' spacing from the last timestep to the first.", whole=True),
        Scheduler(
            "trailing", "Trailing", "diffusers' spacing from full noise; the best one for few steps.", whole=True
        ),
    )
}

_BY_PLAIN_NAME = {plain(name): row for row in SCHEDULERS.values() for name in (row.name, row.label, *row.aliases)}


def find_scheduler(name: str) -> Scheduler:
    """Return the scheduler of a name, A1111 label or alias; capitals, spaces, `-` and `_` do not matter.

    Raises:
        InvalidRequestError: names the nearest ones.

    """
    return look_up(name, _BY_PLAIN_NAME, "scheduler")
