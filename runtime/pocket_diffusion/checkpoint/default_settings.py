"""How a checkpoint is drawn when nothing else is asked for: as its family is, but for what a folder says itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pocket_diffusion.bundle import Defaults
from pocket_diffusion.checkpoint.config_files import blamed_on, read_json
from pocket_diffusion.checkpoint.families import Membership

Check = Callable[[Defaults], Defaults]
"""Returns settings with the names of sampler and scheduler as we write them, or raises ValueError."""


def settings_of_file(path: Path, model: Membership, downscale: int, check: Check) -> Defaults:
    """Return the size that a family's models were trained at, which no single file says, and how they are drawn."""
    side = model.family.side * downscale
    with blamed_on(path):
        return check(msgspec.convert({"width": side, "height": side, **model.drawing}, Defaults))


def settings_of_folder(
    root: Path, sample_size: int | list[int] | None, model: Membership, downscale: int, check: Check
) -> Defaults:
    """Return the size that the U-Net was trained at, how its family is drawn, and what `generation_config.json` adds.

    Raises:
        CheckpointError: a setting makes no sense.

    """

    def checked(values: dict[str, Any]) -> Defaults:
        defaults = msgspec.convert(values, Defaults)
        for side in (defaults.width, defaults.height):
            if side % downscale:
                raise ValueError(f"sides are multiples of {downscale}, not {side}")
        return check(defaults)

    with blamed_on(root / "unet" / "config.json"):
        if sample_size is None:
            sample_size = model.family.side
        size = msgspec.convert(sample_size, int | list[int])
        height, width = size if isinstance(size, list) else (size, size)
        chosen = {"width": width * downscale, "height": height * downscale, **model.drawing}
        usual = checked(chosen)
    path = root / "generation_config.json"
    if not path.exists():
        return usual
    wanted = read_json(path, f"{root} has no default settings")
    if "sampler" in wanted:
        chosen["scheduler"] = None  # the usual one belongs to the usual sampler
    chosen |= {key: wanted[key] for key in Defaults.__struct_fields__ if key in wanted}
    with blamed_on(path):
        return checked(chosen)
