"""The noise schedule of Stable Diffusion 1.x and its ancestral sampler, for training and for looking at progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TRAINING_STEPS = 1000
SCHEDULER_CONFIG = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": TRAINING_STEPS,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "variance_type": "fixed_small",
}
"""What the diffusers folder says about the schedule; the functions below follow it."""

_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, TRAINING_STEPS, dtype=torch.float64) ** 2
ALPHA_BARS: Tensor = torch.cumprod(1 - _BETAS, dim=0).float()
"""Share of the signal's variance left at each timestep (Ho et al. 2020, equation 4): float32 [1000]."""


def add_noise(latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Noise latents [batch, 4, h, w] to timesteps int64 [batch] (Ho et al. 2020, equation 4)."""
    alpha_bar = ALPHA_BARS.to(latents.device)[timestep].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def loss_weight(timestep: Tensor) -> Tensor:
    """Weigh timesteps int64 [batch] by min(SNR + 0.2, 5) / SNR: float32 [batch].

    It is Hang et al. 2023, section 3.4, with a floor. The colour of the whole picture, and with it the time of day,
    is decided where there is most noise, and there plain min-SNR hardly counts an error in the picture at all.
    """
    alpha_bar = ALPHA_BARS.to(timestep.device)[timestep]
    ratio = alpha_bar / (1 - alpha_bar)
    return (ratio + 0.2).clamp(max=5.0) / ratio


def sample(
    predict: Callable[[Tensor, int], Tensor], latents: Tensor, *, steps: int, generator: torch.Generator
) -> Tensor:
    """Turn noise [batch, 4, h, w] into latents by ancestral steps (Ho et al. 2020, equations 6, 7 and 11)."""
    stride = TRAINING_STEPS // steps
    for timestep in range((steps - 1) * stride + 1, 0, -stride):
        alpha_bar = ALPHA_BARS[timestep]
        before = ALPHA_BARS[timestep - stride] if timestep >= stride else torch.tensor(1.0)
        alpha = alpha_bar / before
        noise = predict(latents, timestep)
        clean = (latents - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
        kept = alpha.sqrt() * (1 - before) / (1 - alpha_bar)
        latents = before.sqrt() * (1 - alpha) / (1 - alpha_bar) * clean + kept * latents
        if timestep >= stride:
            variance = (1 - before) / (1 - alpha_bar) * (1 - alpha)
            fresh = torch.randn(latents.shape, generator=generator).to(latents.device)
            latents = latents + variance.sqrt() * fresh
    return latents


def walk(
    predict: Callable[[Tensor, int], Tensor], latents: Tensor, timesteps: Sequence[int]
) -> tuple[list[Tensor], Tensor]:
    """Turn noisy latents [batch, 4, h, w] into clean ones along the model's own path, without fresh noise.

    The steps are DPM-Solver++'s of second order (Lu et al. 2022, algorithm 2), from the first of the falling
    ``timesteps`` through the others to no noise at all. Returns the noisy latents at each timestep, and the clean ones.
    """
    alphas, sigmas = ALPHA_BARS.sqrt(), (1 - ALPHA_BARS).sqrt()
    points, earlier, earlier_step = [], latents, 0.0
    for timestep, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        points.append(latents)
        clean = (latents - sigmas[timestep] * predict(latents, timestep)) / alphas[timestep]
        if following is None:
            break
        step = float(torch.log(alphas[following] / sigmas[following] * sigmas[timestep] / alphas[timestep]))
        ahead = clean + step / (2 * earlier_step) * (clean - earlier) if earlier_step else clean
        latents = sigmas[following] / sigmas[timestep] * latents - alphas[following] * math.expm1(-step) * ahead
        earlier, earlier_step = clean, step
    return points, clean


def consistency_timesteps(steps: int) -> list[int]:
    """Return the falling timesteps of a consistency model: ``steps`` of 50 even ones (Luo et al. 2023, section 4.3)."""
    return [TRAINING_STEPS - 1 - step * 50 // steps * (TRAINING_STEPS // 50) for step in range(steps)]
