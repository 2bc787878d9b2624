"""What draws the same picture from the same weights: this runtime in its memory modes, and its peers."""

import importlib.metadata
from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One of those that are compared."""

    title: str
    module: str
    """The file in this folder that draws with it."""
    packages: tuple[str, ...]
    """Distributions that it needs."""
    files: str | None = None
    """The kind of files that prepare_peers.py writes for it; `None` draws from the bundle."""
    memory: str = "auto"
    """The runtime's memory mode, where it is the runtime."""
    cost: float = 1.0
    """Roughly what a picture takes relative to `ours-fast`: for the estimate of a run's duration alone."""
    psnr: float = 45.0
    """The least agreement of its picture with the reference's, in dB: 8-bit levels that differ by less than one."""

    def absent(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.packages if version(name) is None]


SYSTEMS = {
    "ours-fast": System("Pocket Diffusion, fast", "ours", ("pocket-diffusion",), memory="fast"),
    "ours-balanced": System("Pocket Diffusion, balanced", "ours", ("pocket-diffusion",), memory="balanced", cost=1.2),
    # Decodes in tiles, each with group norms of its own: 25 dB with random weights at 512x512.
    "ours-low": System("Pocket Diffusion, low", "ours", ("pocket-diffusion",), memory="low", cost=1.5, psnr=24.0),
    "onnxruntime": System("ONNX Runtime", "onnxruntime", ("onnxruntime",), files="onnx", cost=1.6),
    "openvino": System("OpenVINO", "openvino", ("openvino",), files="openvino", cost=1.4),
    "diffusers": System(
        "diffusers (PyTorch)", "diffusers", ("diffusers", "torch", "transformers"), files="diffusers", cost=2.2
    ),
}
"""By the name that `peers.py --systems` takes."""

OURS = {system.memory: name for name, system in SYSTEMS.items() if system.files is None}
"""The runtime's entries by their memory mode."""

LATENTS_TOLERANCE = 1e-3
"""Relative error of the latents, for every system: float32 sums in another order stay far below, bfloat16 far above."""


def version(package: str) -> str | None:
    """Return an installed distribution's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
