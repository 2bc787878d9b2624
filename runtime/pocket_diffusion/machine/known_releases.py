"""Releases of ONNX Runtime that are known to be bad for this use, where, and who says so."""

import platform
import re
from collections.abc import Collection
from dataclasses import dataclass

_ISSUES = "https://github.com/microsoft/onnxruntime/issues"
_RELEASES = "https://github.com/microsoft/onnxruntime/releases/tag"
_ARM, _X64 = ("aarch64", "arm64", "ARM64"), ("x86_64", "AMD64")

RECOMMENDED = "1.32"
"""What the tests pass on, and has none of these faults."""


@dataclass(frozen=True)
class KnownFault:
    """What is wrong with some releases on some machines."""

    since: tuple[int, ...]
    """The first release that has it, of those that are allowed."""
    until: tuple[int, ...]
    """The first release that is without it."""
    what: str
    """Goes on after the name of the release."""
    source: str
    """Where it is described."""
    machines: Collection[str] = ()
    """As Python names them; empty for all."""
    system: str | None = None
    """Likewise; None for all."""
    flag: str | None = None
    """What the CPU must have, where the system tells."""
    in_half_precision: bool = False
    """Whether it concerns graphs that compute in float16 alone, which are those made for CUDA."""
    is_dangerous: bool = False
    """Whether it needs a file made to do harm."""


KNOWN_FAULTS = (
    KnownFault(
        (1, 24), (1, 27), "keeps memory of every picture: its convolutions on Arm CPUs with SME remember each input",
        f"{_ISSUES}/28231", machines=_ARM, flag="sme",
    ),
    KnownFault(
        (1, 24), (1, 28), "takes 3 to 4 times the memory for convolutions of varying sizes", f"{_ISSUES}/29538",
        machines=_ARM, system="Darwin",
    ),
    KnownFault(
        (1, 27), (1, 28), "gives other results for the same inputs: its products on Apple's CPUs", f"{_ISSUES}/31569",
        machines=_ARM, system="Darwin",
    ),
    KnownFault(
        (1, 29), (1, 30), "computes products in float16 up to thousands of times slower", f"{_ISSUES}/32255",
        machines=_X64, in_half_precision=True,
    ),
    KnownFault(
        (1, 29), (1, 30), "does not load some graphs in float16", f"{_ISSUES}/32186", in_half_precision=True,
    ),
    KnownFault(
        (1, 24), (1, 30, 1), "reads outside of its memory when it opens a graph that was made for that",
        f"{_RELEASES}/v1.30.1", is_dangerous=True,
    ),
)  # fmt: skip


def known_faults(
    version: str, cpu_flags: Collection[str] | None, *, in_half_precision: bool = False
) -> list[KnownFault]:
    """Return what is known to be wrong with a release on this machine.

    Args:
        version: the release, such as `1.24.4`.
        cpu_flags: what the CPU has; None where the system does not tell.
        in_half_precision: whether graphs that compute in float16 run on the CPU, or others.

    """
    release = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    return [
        fault
        for fault in KNOWN_FAULTS
        if fault.since <= release < fault.until
        and (not fault.machines or platform.machine() in fault.machines)
        and fault.system in (None, platform.system())
        and (fault.flag is None or cpu_flags is None or fault.flag in cpu_flags)
        and fault.in_half_precision == in_half_precision
    ]
