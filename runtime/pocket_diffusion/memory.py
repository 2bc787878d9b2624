"""Memory as a choice: what each mode trades for it, what a picture needs in each, and which one fits."""

import math
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pocket_diffusion.bundle import COMPONENTS, Manifest
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.free_memory import free_memory, own_anonymous_memory
from pocket_diffusion.guidance import is_guided
from pocket_diffusion.request import MIN_SIDE, Request
from pocket_diffusion.session import Arena, Provider
from pocket_diffusion.tiles import largest_run

AUTO = "auto"
_RESERVE = 0.2
"""The share of the free memory that `auto` leaves to others, and to the weights that are mapped from their files."""
_UNSHARED = 0.25
"""Of what a component has left in a shared arena: how much the largest does not find large enough for its own blocks.
A seventh was measured, at 768x768."""
_PICTURE_BYTES = 60
"""Per pixel: a decoded picture as float32 (12 bytes), a few times over while it is joined and rounded."""
_FINISHED_BYTES = 4
"""Per pixel: a finished picture, whose red, green and blue Pillow pads to four bytes."""
_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True)
class MemoryMode:
    """A way to trade time for memory.

    Where the VAE takes a picture whole, it is the same in all modes but for rounding; where in tiles (in `low` beyond
    288x288 pixels, else beyond 768x512), it is near to that: 28 to 34 dB for 512x512 in `low`, see `in_tiles`.
    """

    name: str
    expand_weights: bool
    """The U-Net's weights as float32 in memory; else, as those of the others, mapped and cast just before each use."""
    keep_sessions: bool
    """Graphs stay loaded; else one at a time, each as long as its stage lasts."""
    guide_together: bool
    """Guidance in one run of two samples; else in two runs."""
    arena: Arena
    """Where activations lie. Sessions that stay loaded share an arena, so that the next stage has the last one's."""
    whole: int
    """Up to how many latents the VAE takes a picture at once."""
    tile: int
    """The longest side of the tiles, in latents, in which it takes larger ones."""

    def expands(self, component: str) -> bool:
        """Tell whether a component's weights are expanded: those of the U-Net, which alone runs often."""
        return self.expand_weights and component == "unet"

    def vae_tile(self, height: int, width: int) -> int:
        """Return the longest side of a tile for a picture of `height` x `width` latents."""
        return max(height, width) if height * width <= self.whole else self.tile


MODES = {
    mode.name: mode
    for mode in (  # the fastest first
        MemoryMode(
            name="fast", expand_weights=True, keep_sessions=True, guide_together=True, arena="shared",
            whole=96 * 64, tile=72,
        ),
        MemoryMode(
            name="balanced", expand_weights=False, keep_sessions=False, guide_together=True, arena="own",
            whole=96 * 64, tile=72,
        ),
        MemoryMode(
            name="low", expand_weights=False, keep_sessions=False, guide_together=False, arena="none",
            whole=36 * 36, tile=36,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a picture's need of memory depends on."""

    width: int
    height: int
    guided: bool
    from_picture: bool
    count: int = 1

    @classmethod
    def default(cls, manifest: Manifest) -> "Drawing":
        """Return what a bundle draws when nothing else is asked for."""
        defaults = manifest.defaults
        guided = is_guided(defaults.guidance_scale)
        return cls(width=defaults.width, height=defaults.height, guided=guided, from_picture=False)

    @classmethod
    def of(cls, request: Request) -> "Drawing":
        """Return what a request draws."""
        return cls(
            width=request.width,
            height=request.height,
            guided=is_guided(request.guidance_scale),
            from_picture=request.image is not None,
            count=len(request.seeds),
        )

    def smaller(self, multiple: int) -> Iterator["Drawing"]:
        """Yield drawings of about these proportions, the largest first, with sides that are multiples."""
        longest = max(self.width, self.height)
        for side in range(longest - multiple, MIN_SIDE - 1, -multiple):
            width, height = (
                max(n * side // longest // multiple * multiple, MIN_SIDE) for n in (self.width, self.height)
            )
            yield replace(self, width=width, height=height)


def needed_memory(manifest: Manifest, mode: MemoryMode, drawing: Drawing) -> int | None:
    """Return the bytes of anonymous memory that a drawing takes at most, or None if the bundle has no figures.

    Each component's figures are the exporter's measurements (`ComponentMemory`). Components take turns. Where they stay
    loaded, expanded weights stay too, and so does what of the arena that they share is of no use to the next.
    """
    pixels = drawing.width * drawing.height
    height, width = (side // manifest.latents.downscale for side in (drawing.height, drawing.width))
    vae_pixels = largest_run(height, width, mode.vae_tile(height, width)) * manifest.latents.downscale**2
    at_once = {
        "text_encoder": pixels,
        "unet": pixels * (2 if drawing.guided and mode.guide_together else 1),
        "vae_encoder": vae_pixels,
        "vae_decoder": vae_pixels,
    }
    turns, weights = [], 0
    for name in COMPONENTS:
        memory = manifest.component(name).memory
        if memory is None:
            return None
        if name != "vae_encoder" or drawing.from_picture:
            weights += memory.expanded_weights if mode.expands(name) else 0
            turns.append(max(memory.least, memory.base + memory.per_pixel * at_once[name]))
    pictures = (_PICTURE_BYTES + _FINISHED_BYTES * (drawing.count - 1)) * pixels
    most = max(turns)
    kept = _UNSHARED * (sum(turns) - most) if mode.keep_sessions else 0
    return int(weights + most + kept) + pictures


@dataclass(frozen=True)
class MemoryBudget:
    """What the user allows: a mode by name or `auto`, the latter perhaps within a limit."""

    asked: str = AUTO
    limit: int | None = None
    """Bytes of anonymous memory that the process may have in all."""

    @classmethod
    def parse(cls, text: str) -> "MemoryBudget":
        """Read `auto`, a mode's name, or a limit such as `1500MB`, `1.5GB` or `2GiB`.

        Raises:
            InvalidRequestError: none of these.

        """
        if isinstance(text, str):
            if text == AUTO or text in MODES:
                return cls(text)
            if limit := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([MG]i?B)", text, re.IGNORECASE | re.ASCII):
                return cls(limit=int(float(limit[1]) * _UNITS[limit[2].upper()]))
        raise InvalidRequestError(
            f"memory {reprlib.repr(text)} is not known; "
            f"choose {AUTO}, {', '.join(MODES)}, or a limit such as 1500MB or 2GiB"
        )

    def choose(self, manifest: Manifest, drawing: Drawing, provider: Provider) -> "MemoryChoice":
        """Return the mode that was asked for, else the fastest that fits; or the smallest, if none does.

        Without figures, which a graphics card's memory never has, `auto` means `fast` there and `balanced` on a CPU.
        """
        free = of_machine = free_memory()
        own = own_anonymous_memory()
        if self.limit is not None:
            left = max(self.limit - own, 0)
            free = left if of_machine is None else min(of_machine, left)
        needs = {
            name: None if provider == "cuda" else needed_memory(manifest, mode, drawing) for name, mode in MODES.items()
        }
        if self.asked != AUTO:
            mode = MODES[self.asked]
        elif free is None or None in needs.values():
            mode = MODES["fast" if provider == "cuda" else "balanced"]
        else:
            usable = free if of_machine is None else min(free, of_machine * (1 - _RESERVE))
            mode = next((MODES[name] for name, need in needs.items() if (need or 0) <= usable), MODES["low"])
        return MemoryChoice(self, manifest, drawing, mode, needs, free, of_machine, own)


@dataclass(frozen=True)
class MemoryChoice:
    """A mode for a picture, and why."""

    budget: MemoryBudget
    manifest: Manifest
    drawing: Drawing
    mode: MemoryMode
    needs: dict[str, int | None]
    """By mode, in bytes; None where the bundle does not tell."""
    free: int | None
    """Bytes that can be had within the limit, None where the system does not tell."""
    of_machine: int | None
    """The same without the limit."""
    own: int
    """Bytes that the process has already, which count towards the limit."""

    def check(self) -> None:
        """Refuse a picture that does not fit.

        Raises:
            InvalidRequestError: names the need, what is free, and what would fit.

        """
        need = self.needs[self.mode.name]
        if need is None or self.free is None or need <= self.free:
            return
        advice = list(self._advice(need, self.free))
        advice = advice or [f"no size fits in mode {self.mode.name}; free some memory or use a smaller bundle"]
        raise InvalidRequestError(
            f"{self._size(self.drawing)} needs {_megabytes(need)} of memory in mode {self.mode.name}, "
            f"and {self._free()}; {', or '.join(advice)}"
        )

    def __str__(self) -> str:
        """Return the mode and why, for a log."""
        asked = "asked for" if self.budget.asked != AUTO else f"chosen by {AUTO}"
        needs = ", ".join(f"{name} {_megabytes(need)}" for name, need in self.needs.items())
        return f"memory mode {self.mode.name}, {asked}: {self._size(self.drawing)} needs {needs}; {self._free()}"

    def _advice(self, need: int, free: int) -> Iterator[str]:
        """Yield what would make a picture fit that does not."""
        for name, other in self.needs.items():
            if other is not None and other <= free:
                yield f"use memory {name}, which needs {_megabytes(other)}"
                break
        if self.budget.limit is not None and (self.of_machine is None or need <= self.of_machine):
            yield f"a limit of {_megabytes(need + self.own)} would do"
        for smaller in self.drawing.smaller(self.manifest.latents.downscale):
            if (needed_memory(self.manifest, self.mode, smaller) or math.inf) <= free:
                yield f"the largest of such proportions that fits in mode {self.mode.name} is {self._size(smaller)}"
                break

    def _free(self) -> str:
        if self.free is None:
            return "how much is free is not known here"
        return f"{self.free // 10**6} MB are {'free' if self.free == self.of_machine else 'left of the limit'}"

    @staticmethod
    def _size(drawing: Drawing) -> str:
        size = f"{drawing.width}x{drawing.height}"
        return size if drawing.count == 1 else f"{size} ({drawing.count} pictures)"


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{-(-size // 10**6)} MB"
