"""What a sampler knows of the model: (x, sigma) → x_0."""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import IMAGE_LATENTS, NoiseSchedule
from pocket_diffusion.drawing.caches import Cache
from pocket_diffusion.drawing.conditioning import Conditioning
from pocket_diffusion.drawing.guidance import Guidance
from pocket_diffusion.drawing.levels import Levels

Array = NDArray[np.float32]
Shown = Mapping[str, Array]
"""What a U-Net takes beyond latents, timestep and context, by the names of its inputs; each `[1, …]`."""
Predict = Callable[..., Array]
"""(latents `[1, channels, h, w]`, timestep, contexts `[n, tokens, dim]`, shown) → predictions `[n, channels, h, w]`.

For a cache that keeps deep features, it takes `DeepFeatures` as well.
"""
_NOTHING: Shown = {}
_NO_CACHE = Cache()


class Denoiser:
    """The U-Net under guidance, as a function of latents and their noise level.

    Latents are x = x_0 + sigma · noise. The U-Net was trained on x / sqrt(1 + sigma²), whose variance is that of x_0
    (Karras et al. 2022, appendix C.2).
    """

    def __init__(
        self,
        predict: Predict,
        schedule: NoiseSchedule,
        levels: Levels,
        prompt: Conditioning,
        negative: Conditioning | None,
        guidance: Guidance,
        *,
        together: bool = True,
    ) -> None:
        """Bind all that stays the same on the way; `together` predicts under both contexts in one run of the U-Net.

        Without `negative`, nothing is guided.
        """
        self.x_0: Array = np.zeros(0, np.float32)
        """The last one that was returned."""
        self._predict = predict
        self._schedule = schedule
        self._levels = levels
        self._timesteps = dict(zip(levels.sigmas, levels.timesteps, strict=False))
        self._prompt = prompt
        self._negative = negative
        self._guidance = guidance
        self._together = together
        self._step = 0
        self._shown = _NOTHING
        self._cache = _NO_CACHE

    def at(self, step: int, shown: Shown = _NOTHING, cache: Cache = _NO_CACHE) -> "Denoiser":
        """Turn to a step, by which the contexts and the guidance go, of a picture that is drawn from what is shown.

        The cache is that picture's.
        """
        self._step, self._shown, self._cache = step, shown, cache
        return self

    def __call__(self, x: Array, sigma: float) -> Array:
        """Return the clean latents that the model sees in `[1, channels, h, w]`."""
        self.x_0 = self._cache.x_0(x, sigma, self._conditions(), partial(self._evaluate, x, sigma))
        return self.x_0

    def _conditions(self) -> Hashable:
        """Return what tells the contexts of the step, and whether it is guided, from those of others."""
        prompt = self._prompt.by_step[self._step]
        return prompt, self._negative.by_step[self._step] if self._negative is not None and self._is_guided() else None

    def _is_guided(self) -> bool:
        return self._negative is not None and self._guidance.applies(self._step / self._levels.steps)

    def _evaluate(self, x: Array, sigma: float) -> Array:
        scale = (1 + sigma * sigma) ** -0.5
        prediction = self._guided(x * np.float32(scale), self._timestep(sigma))
        match self._schedule.prediction_type:
            case "epsilon":
                x_0 = x - np.float32(sigma) * prediction
            case "v_prediction":  # Salimans & Ho 2022, appendix D
                x_0 = np.float32(scale * scale) * x - np.float32(sigma * scale) * prediction
            case "sample":
                x_0 = prediction
        return self._held(x_0)

    def _timestep(self, sigma: float) -> float:
        timestep = self._timesteps.get(sigma)
        return float(self._levels.trained.timestep(sigma)) if timestep is None else timestep

    def _guided(self, latents: Array, timestep: float) -> Array:
        prompt = self._prompt.at(self._step)
        if self._negative is None or not self._is_guided():
            return self._run(latents, timestep, prompt, self._shown)
        negative = self._negative.at(self._step)
        if self._together and negative.shape == prompt.shape:
            both = self._run(latents, timestep, np.concatenate([negative, prompt]), self._shown)
        else:
            both = np.concatenate([self._run(latents, timestep, one, self._shown) for one in (negative, prompt)])
        blind = None
        if self._guidance.needs_blind:  # a run of its own: contexts share a run where they share what is shown
            hidden = {**self._shown, IMAGE_LATENTS: np.zeros_like(self._shown[IMAGE_LATENTS])}
            blind = self._run(latents, timestep, negative, hidden)
        return self._guidance.combine(both[:1], both[1:], blind)

    def _run(self, *inputs: Any) -> Array:  # noqa: ANN401 - `Predict`'s
        return self._cache.run(self._predict, *inputs)

    def _held(self, x_0: Array) -> Array:
        """Keep the picture within the limits that the checkpoint's config asks for; latents have none."""
        schedule = self._schedule
        if schedule.thresholding:  # Saharia et al. 2022, section 2.3
            limit = float(np.quantile(np.abs(x_0), schedule.dynamic_thresholding_ratio))
            limit = min(max(limit, 1.0), schedule.sample_max_value)
            return np.asarray(x_0.clip(-limit, limit) / limit, np.float32)
        if schedule.clip_sample:
            return x_0.clip(-schedule.clip_sample_range, schedule.clip_sample_range)
        return x_0
