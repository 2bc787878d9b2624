"""The CPUs that are emulated, and what 8-bit products do on each."""

from dataclasses import dataclass
from typing import Literal

Products = Literal["fast", "slow", "wrong"]
"""How 8-bit products are: right and faster than float32's, right but slower, or wrong because sums saturate."""


@dataclass(frozen=True)
class Cpu:
    """A CPU as QEMU knows it, and what is expected of it."""

    name: str
    machine: Literal["x86_64", "aarch64"]
    model: str
    """QEMU's name for it, less what QEMU cannot emulate and would warn of at each thread."""
    products: Products
    flags: str = ""
    """What its /proc/cpuinfo says; QEMU shows Arm programs the right one by itself, but x86 programs the host's."""


CPUS = (
    Cpu(
        "haswell", "x86_64", "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid", "wrong",
        flags="sse4_1 sse4_2 avx fma f16c avx2",
    ),
    Cpu("nehalem", "x86_64", "Nehalem", "slow", flags="sse4_1 sse4_2"),
    Cpu("cortex-a72", "aarch64", "cortex-a72", "slow"),
    Cpu("cortex-a76", "aarch64", "cortex-a76", "fast"),
    Cpu("arm max", "aarch64", "max", "fast"),
)  # fmt: skip
