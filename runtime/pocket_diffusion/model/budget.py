"""Which memory mode a picture is drawn in: what the user allows against what is free."""

import math
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass

from pocket_diffusion.bundle import Manifest
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.device_memory import free_device_memory
from pocket_diffusion.machine.free_memory import free_memory, own_anonymous_memory
from pocket_diffusion.machine.session import Provider
from pocket_diffusion.model.memory import MODES, MODES_ON, Demand, MemoryMode, needed_memory

AUTO = "auto"
_RESERVE = 0.2
"""The share of the free memory that `auto` leaves to others, and to the weights that are mapped from their files."""
_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class MemoryBudget:
    """What the user allows: a mode by name or `auto`, perhaps within a limit."""

    asked: str = AUTO
    limit: int | None = None
    """Bytes that the process may have in all: of anonymous memory, or of the graphics card's on CUDA."""

    @classmethod
    def parse(cls, text: "str | MemoryBudget") -> "MemoryBudget":
        """Read `auto`, a mode's name, or a limit such as `1500MB`, `1.5GB` or `2GiB`; a budget is taken as it is.

        Raises:
            InvalidRequestError: none of these.

        """
        if isinstance(text, MemoryBudget):
            return text
        if isinstance(text, str):
            if text == AUTO or text in MODES:
                return cls(text)
            if limit := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([MG]i?B)", text, re.IGNORECASE | re.ASCII):
                return cls(limit=int(float(limit[1]) * _UNITS[limit[2].upper()]))
        raise InvalidRequestError(
            f"memory {reprlib.repr(text)} is not known; "
            f"choose {AUTO}, {', '.join(MODES)}, or a limit such as 1500MB or 2GiB"
        )

    def choose(self, manifest: Manifest, demand: Demand, provider: Provider) -> "MemoryChoice":
        """Return the mode that was asked for, else the fastest that fits; or the smallest, if none does.

        Without figures, `auto` means `fast` on CUDA and `balanced` on a CPU.
        """
        modes = MODES_ON[provider]
        free = of_machine = free_device_memory() if provider == "cuda" else free_memory()
        own = own_anonymous_memory() if provider == "cpu" else 0  # on a card, `needed_memory` counts it
        if self.limit is not None:
            left = max(self.limit - own, 0)
            free = left if of_machine is None else min(of_machine, left)
        needs = {name: needed_memory(manifest, mode, demand, provider) for name, mode in modes.items()}
        if self.asked != AUTO:
            mode = modes[self.asked]
        elif free is None or None in needs.values():
            mode = modes["fast" if provider == "cuda" else "balanced"]
        else:
            usable = free if of_machine is None else min(free, of_machine * (1 - _RESERVE))
            mode = next((modes[name] for name, need in needs.items() if (need or 0) <= usable), modes["low"])
        return MemoryChoice(self, manifest, demand, provider, mode, needs, free, of_machine, own)

    def has_room(self, more: int) -> bool:
        """Tell whether so many bytes more can be had beside all that the process holds."""
        if self.limit is not None and own_anonymous_memory() + more > self.limit:
            return False
        free = free_memory()
        return free is None or more <= free * (1 - _RESERVE)


@dataclass(frozen=True)
class MemoryChoice:
    """A mode for a picture, and why."""

    budget: MemoryBudget
    manifest: Manifest
    demand: Demand
    provider: Provider
    mode: MemoryMode
    needs: dict[str, int | None]
    """By mode, in bytes; None where the bundle does not tell."""
    free: int | None
    """Bytes that can be had within the limit, None where the system does not tell."""
    of_machine: int | None
    """The same without the limit."""
    own: int
    """Bytes that the process has already, which count towards the limit."""

    @property
    def is_comfortable(self) -> bool:
        """Whether the picture is known to fit in the fastest mode that may be taken."""
        need = self.needs[self.mode.name]
        is_fastest = self.budget.asked != AUTO or self.mode.name == next(iter(self.needs))
        return is_fastest and need is not None and self.free is not None and need <= self.free

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
            f"{self._size(self.demand)} needs {_megabytes(need)} of {self._memory} in mode {self.mode.name}, "
            f"and {self._free()}; {', or '.join(advice)}"
        )

    def __str__(self) -> str:
        """Return the mode and why, for a log."""
        asked = "asked for" if self.budget.asked != AUTO else f"chosen by {AUTO}"
        needs = ", ".join(f"{name} {_megabytes(need)}" for name, need in self.needs.items())
        return f"memory mode {self.mode.name}, {asked}: {self._size(self.demand)} needs {needs}; {self._free()}"

    def _advice(self, need: int, free: int) -> Iterator[str]:
        """Yield what would make a picture fit that does not."""
        for name, other in self.needs.items():
            if other is not None and other <= free:
                yield f"use memory {name}, which needs {_megabytes(other)}"
                break
        if self.budget.limit is not None and (self.of_machine is None or need <= self.of_machine):
            yield f"a limit of {_megabytes(need + self.own)} would do"
        for smaller in self.demand.smaller(self.manifest.latents.downscale):
            if (needed_memory(self.manifest, self.mode, smaller, self.provider) or math.inf) <= free:
                yield f"the largest of such proportions that fits in mode {self.mode.name} is {self._size(smaller)}"
                break

    def _free(self) -> str:
        if self.free is None:
            return "how much is free is not known here"
        return f"{self.free // 10**6} MB are {'free' if self.free == self.of_machine else 'left of the limit'}"

    @property
    def _memory(self) -> str:
        return "the GPU's memory" if self.provider == "cuda" else "memory"

    @staticmethod
    def _size(demand: Demand) -> str:
        size = f"{demand.width}x{demand.height}"
        return size if demand.count == 1 else f"{size} ({demand.count} pictures)"


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{-(-size // 10**6)} MB"
