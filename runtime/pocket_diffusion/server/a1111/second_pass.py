"""The second pass ("hires fix"): pictures of the first, enlarged by Lanczos' filter and redrawn."""

import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from PIL import Image
from starlette.requests import Request

from pocket_diffusion.drawing.picture_file import Picture
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.drawing.samplers import find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS, find_scheduler
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import Order
from pocket_diffusion.server.a1111.asked import Generation, found
from pocket_diffusion.server.a1111.switches import is_off
from pocket_diffusion.server.answers import kept_picture, submit, wait
from pocket_diffusion.server.jobs import Job
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.orders import resolve_within

_LARGEST_OFF = 0.01
"""How far the second pass's proportions may be from the first's, for they are rounded."""


class SecondPass(msgspec.Struct, frozen=True, kw_only=True):
    """How the pictures of a first pass are redrawn."""

    width: int
    height: int
    steps: int
    """That are taken: the strength says from where."""
    strength: float
    prompt: str
    """Empty for the first pass's; so is the negative prompt."""
    negative_prompt: str
    sampler: str | None
    """None for the first pass's, with all that goes with it."""
    scheduler: str | None
    """None for the first pass's, or where that has another sampler, for the sampler's own."""

    @classmethod
    def of(cls, asked: Generation, first: Drawing, limits: Limits) -> "SecondPass":
        """Return what `enable_hr` asks for, checked before the first pass takes its time.

        Raises:
            InvalidRequestError: its size has other proportions than the first pass's, it names another model, or it
                cannot be drawn.

        """
        if not is_same(asked.hr_checkpoint_name):
            raise InvalidRequestError("hr_checkpoint_name: not supported here; leave it out")
        scale_x, scale_y = asked.hr_resize_x / first.width, asked.hr_resize_y / first.height
        if scale_x and scale_y and abs(scale_x / scale_y - 1) > _LARGEST_OFF:
            raise InvalidRequestError("hr_resize_x and hr_resize_y must have the proportions of width and height")
        scale = scale_x or scale_y or asked.hr_scale
        multiple = first.manifest.latents.downscale
        steps = asked.hr_second_pass_steps or first.steps
        second = cls(
            # Rounded first: 88 * (120 / 88) is less than 120.
            width=round(first.width * scale) // multiple * multiple,
            height=round(first.height * scale) // multiple * multiple,
            steps=steps,
            strength=max(asked.denoising_strength, least_strength(steps)),
            prompt=asked.hr_prompt,
            negative_prompt="" if first.manifest.guides_itself else asked.hr_negative_prompt,
            sampler=asked.hr_sampler_name if found(find_sampler, asked.hr_sampler_name) else None,
            scheduler=asked.hr_scheduler if found(find_scheduler, asked.hr_scheduler) else None,
        )
        try:
            resolve_within(second._order(first, 0, Image.new("RGB", (1, 1))), first.manifest, limits)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"the second pass: {error}") from None
        return second

    async def draw(self, request: Request, first: Job, model: str) -> AsyncIterator[tuple[Job, str]]:
        """Redraw the pictures one by one, and yield the jobs that are done, and what the pictures say of both passes.

        Raises:
            PocketDiffusionError: see `submit` and `wait`.

        """
        for index, name in enumerate(first.pictures):
            order = self._order(first.drawing, index, await kept_picture(request, name))
            job = await submit(request, order, model, described=False, first_pass=first.drawing.single(index))
            (text,) = job.infotexts
            await wait(request, job)
            yield job, text

    def _order(self, first: Drawing, index: int, picture: Picture) -> Order:
        return msgspec.structs.replace(
            first.order(index),
            prompt=self.prompt or first.prompt,
            negative_prompt=self.negative_prompt or first.negative_prompt,
            width=self.width,
            height=self.height,
            # As in the web UI, so many are taken: a way of more steps, of which the strength leaves these. Of the
            # longest way that there is, a weak pass takes what is left.
            steps=min(math.ceil(self.steps / self.strength), first.manifest.schedule.train_timesteps),
            strength=self.strength,
            image=picture,
            cache=None,  # that of the first may not be possible; the server has its own again
            **self._sampling(first),
        )

    def _sampling(self, first: Drawing) -> dict[str, Any]:
        """Return what is not as in the first pass."""
        kind, named = (first.kind, None) if self.sampler is None else find_sampler(self.sampler)
        if kind is first.kind and named in (None, first.scheduler):
            return {} if self.scheduler is None else {"scheduler": self.scheduler}
        return {
            "sampler": self.sampler,
            "scheduler": None if named in SCHEDULERS else self.scheduler,
            "eta": None,
            "s_noise": 1.0,
        }


def is_same(name: str) -> bool:
    """Whether a name of the second pass's says that it is as in the first, as the web UI's lists have it."""
    return is_off(name) or name.startswith("Use same ")


def least_strength(steps: int) -> float:
    """Return the strength that leaves one step, which the web UI takes at least."""
    return math.ceil(1000 / steps) / 1000
