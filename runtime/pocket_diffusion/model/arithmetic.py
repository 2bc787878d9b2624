"""Which arithmetic each network computes in: what the user asks for against what bundle and machine have."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from pocket_diffusion.bundle import Bundle, Manifest
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.cpu import products_are_fast, products_fault
from pocket_diffusion.machine.session import Provider
from pocket_diffusion.model.budget import AUTO

EXACT = "exact"
INT8 = "int8"
ARITHMETICS = (AUTO, EXACT, INT8)


@dataclass(frozen=True)
class ArithmeticChoice:
    """The arithmetic of a bundle's networks, and why."""

    asked: str = EXACT
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    """By role: those of the 8-bit graphs that could be used."""
    obstacle: str | None = None
    """Why none could be used."""

    @property
    def int8(self) -> tuple[str, ...]:
        """The roles of the networks that compute in 8 bits; the others are exact."""
        return tuple(role for role, one in self.certificates.items() if self.asked == INT8 or one.allows)

    @property
    def name(self) -> str:
        """What draws the same picture again: `exact`, `int8`, or `auto` where a bound keeps some networks exact."""
        if not self.int8:
            return EXACT
        return INT8 if len(self.int8) == len(self.certificates) else AUTO

    def __str__(self) -> str:
        """Return the arithmetic and why, for a log."""
        asked = f"chosen by {AUTO}" if self.asked == AUTO else "asked for"
        if not self.certificates:
            return f"{asked}: {EXACT}" + (f", since {self.obstacle}" if self.obstacle else "")
        figures = (
            f"{role} {INT8 if role in self.int8 else EXACT} "
            f"({one.relative_error:.1e} off, {'within' if one.allows else 'above'} the bound of {one.bound:.1e})"
            for role, one in self.certificates.items()
        )
        return f"{asked}: {', '.join(figures)}"


def choose_arithmetic(asked: str, bundle: Bundle, provider: Provider) -> ArithmeticChoice:
    """Settle `auto`, `exact` or `int8`.

    `auto` takes each 8-bit graph whose certificate allows it, on CPUs that multiply in 8 bits fast and right. `int8`
    takes all 8-bit graphs, also those above their bound.

    Raises:
        InvalidRequestError: not one of `ARITHMETICS`; or `int8` where there is no such graph, on CUDA, or where the CPU
            multiplies in 8 bits slowly or wrong.
        BundleDamagedError: see `Bundle.certificate`.
        RuntimeUnavailableError, OperatorUnavailableError: see `products_are_right`.

    """
    if asked not in ARITHMETICS:
        raise InvalidRequestError(
            f"arithmetic {reprlib.repr(asked)} is not known; choose one of {', '.join(ARITHMETICS)}"
        )
    if asked == EXACT:
        return ArithmeticChoice()
    obstacle, remedy = _obstacle(bundle.manifest, provider)
    if obstacle is None and asked == AUTO and products_are_fast() is None:
        obstacle = "the system does not tell whether the CPU has instructions for 8-bit products"
    if obstacle is None:
        return ArithmeticChoice(asked, {role: bundle.certificate(role) for role in bundle.manifest.int8_graphs})
    if asked == INT8:
        raise InvalidRequestError(
            f"arithmetic int8 is not possible here: {obstacle}; {remedy}use --arithmetic exact or auto"
        )
    return ArithmeticChoice(asked, obstacle=obstacle)


def _obstacle(manifest: Manifest, provider: Provider) -> tuple[str | None, str]:
    """Return what keeps 8-bit graphs from being used, if anything does, and what would help."""
    if provider == "cuda":
        return "8-bit graphs are for CPUs", "use --provider cpu, or "
    if not manifest.int8_graphs:
        return "the bundle has no 8-bit graph", "export it with --weights int8, or "
    return products_fault(), ""
