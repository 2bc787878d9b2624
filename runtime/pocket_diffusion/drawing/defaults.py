"""A checkpoint's default settings, by the names that we write."""

import msgspec

from pocket_diffusion.bundle import Defaults
from pocket_diffusion.drawing.samplers import find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS, find_scheduler


def with_our_names(defaults: Defaults) -> Defaults:
    """Return the settings with sampler and scheduler by their own names.

    Raises:
        InvalidRequestError: one of them is not known, or the two do not go together.

    """
    sampler, named = find_sampler(defaults.sampler)
    scheduler = named if named in SCHEDULERS else None
    if defaults.scheduler is not None:
        scheduler = find_scheduler(defaults.scheduler).name
    if scheduler is not None:
        sampler.check_scheduler(scheduler)
    return msgspec.structs.replace(defaults, sampler=sampler.name, scheduler=scheduler)
