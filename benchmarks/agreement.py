"""How far what a system drew is from what the reference drew."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from report import psnr, relative_error
from systems import Tolerance

AGREEMENT = ("U-Net off by", "decoder off by", "latents off by", "pictures alike to")
"""What drawings are compared by."""


@dataclass(frozen=True)
class Drawn:
    """What one process drew, and what its networks made of the inputs that all are given."""

    noise: np.ndarray
    """The U-Net's output, `[2, 4, h/8, w/8]`."""
    decoded: np.ndarray
    """The VAE decoder's, `[1, 3, h, w]`."""
    latents: np.ndarray
    """The picture's, `[1, 4, h/8, w/8]`."""
    pictures: np.ndarray
    """`[1, h, w, 3]`, 8-bit."""

    @classmethod
    def read(cls, path: Path) -> "Drawn":
        """Read what draw.py wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


def compare(drawn: Drawn, reference: Drawn, tolerance: Tolerance) -> dict[str, float | bool]:
    """Return how far two drawings are apart, and whether that is within the tolerance."""

    def error(name: str) -> float:
        return relative_error(getattr(reference, name), getattr(drawn, name))

    errors = {"unet": error("noise"), "decoder": error("decoded"), "latents": error("latents")}
    alike = psnr(reference.pictures, drawn.pictures, peak=255)
    agrees = all(errors[name] <= getattr(tolerance, name) for name in errors) and alike >= tolerance.psnr  # NaN is not
    return {**errors, "psnr": alike, "agrees": bool(agrees)}


def worst_agreements(drawings: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, of each system's drawings, what `compare` found where it was most."""
    worst: dict[str, dict[str, Any]] = {}
    for drawing in drawings:
        name, agreement = drawing["system"], drawing["agreement"]
        worst[name] = max(
            worst.get(name, agreement),
            agreement,
            key=lambda one: (not one["agrees"], one["latents"], -one["psnr"]),
        )
    return worst


def agreement_texts(found: dict[str, Any], tolerance: Tolerance) -> list[str]:
    """Return a text for each of `AGREEMENT`: how far a drawing is from the reference, and may be."""
    errors = [f"{found[part]:.1e} (at most {getattr(tolerance, part):.0e})" for part in ("unet", "decoder", "latents")]
    return [*errors, f"{found['psnr']:.1f} dB (at least {tolerance.psnr:.0f})"]
