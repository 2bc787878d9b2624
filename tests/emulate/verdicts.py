"""Whether a CPU does what is expected of it: what was found on it beside what was found on others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from emulate.cpus import Cpu

PREDICTION_TOLERANCE = 2e-5
"""Relative. Float32 sums in another order are up to 4e-6 apart, where float16 would be at 1e-3."""
PICTURE_TOLERANCE = 1
"""Of 255: a pixel's value may lie between two."""
INT8_TOLERANCE = 1.3
"""How many times the reference's an 8-bit graph's error may be; those of right products are within 1.1 times."""
_DOCTOR_SAYS = {"fast": "right, and fast", "slow": "would be slower", "wrong": "come out wrong"}


@dataclass(frozen=True)
class Observation:
    """What was found on a CPU."""

    doctor: str
    """What `pocket-diffusion doctor` printed."""
    arrays: Mapping[str, np.ndarray]
    """What `observe.py` kept: `products_right`; `auto`, the roles that compute in 8 bits unasked; and for each memory
    mode `picture MODE`, the exact prediction `exact MODE` and, if the bundle has an 8-bit U-Net and products are right,
    its prediction `int8 MODE`."""

    def by_mode(self, kind: str) -> dict[str, np.ndarray]:
        """Return the arrays of a kind, such as `picture`, by memory mode."""
        names = (name.split() for name in self.arrays)
        return {name[1]: self.arrays[" ".join(name)] for name in names if name[0] == kind}


@dataclass(frozen=True)
class Verdict:
    """One thing that was checked on one CPU."""

    cpu: str
    check: str
    found: str
    expected: str
    passed: bool


def judge(cpu: Cpu, seen: Observation, others: Sequence[Observation], allowed: Sequence[str]) -> list[Verdict]:
    """Compare what was seen on an emulated CPU with what is expected of it.

    Args:
        cpu: which one.
        seen: what was found on it.
        others: what was found on the native machine, which is what the exact arrays are compared with, and then on the
            emulated ones. The 8-bit graph's are compared with the first that has them: on the native machine, too,
            products may be wrong.
        allowed: the roles whose certificates let them compute in 8 bits unasked.

    """
    verdict = partial(Verdict, cpu.name)
    doctor = next((name for name, phrase in _DOCTOR_SAYS.items() if phrase in seen.doctor), "says nothing")
    products = "right" if seen.arrays["products_right"] else "wrong"
    right = "wrong" if cpu.products == "wrong" else "right"
    auto = ", ".join(map(str, seen.arrays["auto"])) or "nothing"
    expected = ", ".join(allowed if cpu.products == "fast" else ()) or "nothing"
    verdicts = [
        verdict("8-bit products, by doctor", doctor, cpu.products, doctor == cpu.products),
        verdict("crafted products", products, right, products == right),
        verdict("in 8 bits by auto", auto, expected, auto == expected),
    ]
    for kind, difference, unit, tolerance in (
        ("exact", relative_error, "relative", PREDICTION_TOLERANCE),
        ("picture", largest_difference, "of 255", PICTURE_TOLERANCE),
    ):
        for mode, array in others[0].by_mode(kind).items():
            off = difference(seen.by_mode(kind)[mode], array)
            check = f"{'prediction' if kind == 'exact' else kind}, {mode}"
            verdicts.append(verdict(check, f"{off:.2g} {unit}", f"≤ {tolerance:g}", off <= tolerance))
    reference = next((other for other in others if other.by_mode("int8")), None)
    if reference is not None and right == "right":
        error, bound = int8_error(seen), INT8_TOLERANCE * int8_error(reference)
        verdicts.append(verdict("8-bit prediction", f"{error:.2g} relative", f"≤ {bound:.2g}", error <= bound))
    return verdicts


def int8_error(seen: Observation) -> float:
    """Return how far 8-bit predictions are from the exact ones on the same CPU, in the memory mode where it is most.

    Two CPUs' 8-bit predictions are as far from each other as from the exact one: a value that one of them rounds the
    other way changes all that follow. How far they are from the exact one hardly depends on the CPU, unless a product
    is wrong. Without 8-bit predictions the error is infinite.
    """
    exact = seen.by_mode("exact")
    errors = [relative_error(array, exact[mode]) for mode, array in seen.by_mode("int8").items()]
    return float(np.max(errors)) if errors else np.inf


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return ‖found − expected‖ / ‖expected‖."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def largest_difference(found: np.ndarray, expected: np.ndarray) -> int:
    """Return the largest difference between two pictures' values."""
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts in columns, one a line."""
    rows = [("cpu", "check", "found", "expected", "verdict")]
    rows += [(v.cpu, v.check, v.found, v.expected, "ok" if v.passed else "NOT AS EXPECTED") for v in verdicts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
