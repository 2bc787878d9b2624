"""How far an export is: the phases that it goes through, and about how long each takes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pocket_diffusion.writer import OnProgress

Phase = Literal[
    "trace",
    "int8",
    "write",
    "parity",
    "memory",
    "draw",
    "retrace",
    "layers",
    "whole",
    "certificate",
    "float16",
    "finish",
]
Phases = Mapping[tuple[str, Phase], float]
"""In their order, by part and kind: how many seconds they take on two cores."""

# Multiplications per parameter, compared with the U-Net's: the VAE computes at the size of the picture.
_WORK = {"text_encoder": 1, "vae_encoder": 10, "vae_decoder": 12, "unet": 1}


@dataclass(frozen=True)
class PartSize:
    """What the time for a part depends on."""

    tensors: int
    parameters: int

    @property
    def millions(self) -> float:
        """Of parameters."""
        return self.parameters / 1e6


def plan(
    parts: Mapping[str, PartSize],
    *,
    in_int8: bool,
    for_cpu: bool,
    in_8_bits: Collection[str] = (),
    in_float16: bool = False,
) -> Phases:
    """Return the phases of an export, for parts in their order.

    The seconds are lines through what a tiny model and one of Stable Diffusion 1.5's size took on an AMD EPYC, in
    float16 and int8. Another machine is slower or faster by one factor, more or less; a share of the work stays one.
    """
    phases: dict[tuple[str, Phase], float] = {}
    for name, size in parts.items():
        work = size.millions * _WORK[name]
        phases[name, "trace"] = 2 + 0.06 * size.tensors
        if in_int8:
            phases[name, "int8"] = 0.3 + 0.015 * work
        phases[name, "write"] = 0.0075 * size.millions
        phases[name, "parity"] = 0.5 + 0.0165 * work
        if for_cpu:
            phases[name, "memory"] = 0.7 if name == "text_encoder" else 3.5 + 0.045 * work
    drawing = 4 + 0.065 * parts["unet"].millions
    if in_8_bits or in_float16:
        phases["", "draw"] = drawing
    if in_8_bits:
        for name in (name for name in parts if name in in_8_bits):
            size, work = parts[name], parts[name].millions * _WORK[name]
            phases[name, "retrace"] = 2 + 0.06 * size.tensors + 0.015 * work
            phases[name, "layers"] = 0.1 * size.tensors + 0.04 * work
            phases[name, "whole"] = 2 + 0.03 * work
            phases[name, "certificate"] = 3 + 0.02 * work + (drawing if name == "unet" else 0)
    if in_float16:
        for name, size in parts.items():
            phases[name, "float16"] = 1 + 0.04 * size.millions * _WORK[name]
    phases["", "finish"] = 0.3 + 0.007 * sum(size.millions for size in parts.values())
    return phases


class Progress:
    """Tells what is being done, and the share of the expected time that lies behind."""

    def __init__(self, report: OnProgress, phases: Phases) -> None:
        """Be told of the beginning of `phases`; what is not among them moves nothing."""
        self._report = report
        self._phases = phases
        self._done = 0.0

    @property
    def seconds(self) -> float:
        """How long all of it takes, about."""
        return sum(self._phases.values())

    def begin(self, part: str, phase: Phase, what: str) -> None:
        """Say that a phase begins, and that those before it are over."""
        kinds = list(self._phases)
        if (part, phase) in self._phases:
            before = kinds[: kinds.index((part, phase))]
            self._done = sum(self._phases[kind] for kind in before) / self.seconds
        self.tell(what)

    def tell(self, what: str) -> None:
        """Say something on the way."""
        self._report(what, self._done)
