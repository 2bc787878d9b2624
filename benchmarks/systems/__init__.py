"""What draws the same picture from the same weights: this runtime in its modes and arithmetics, and its peers."""

import importlib.metadata
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tolerance:
    """How far a system may be from float32; errors are relative, by the Euclidean norm."""

    unet: float
    """Error of one evaluation of the U-Net."""
    decoder: float
    """Error of one run of the VAE decoder."""
    latents: float
    """Error of a picture's latents."""
    psnr: float
    """The least agreement of the picture, in dB of 8-bit levels."""
    reason: str


EXACT = Tolerance(1e-3, 1e-3, 1e-3, 45.0, "float32 sums in another order stay far below")
# 25 dB with random weights at 512x512.
TILED = replace(EXACT, decoder=0.5, psnr=24.0, reason="group norms of its own in each tile of the decoder")
ROUNDED = Tolerance(0.3, 0.3, 0.7, 15.0, "rounded factors; another model's picture is off by about 1")
ROUNDED_AND_TILED = replace(ROUNDED, decoder=0.6, reason="rounded factors, and the decoder's tiles")


@dataclass(frozen=True)
class System:
    """One of those that are compared."""

    title: str
    """Without what it computes in, which the run finds out."""
    module: str
    """The file in this folder that draws with it."""
    packages: tuple[str, ...]
    """Distributions that it needs."""
    files: str | None = None
    """The kind of files that prepare_peers.py writes for it; `None` draws from a bundle."""
    memory: str = "auto"
    """The runtime's memory mode, where it is the runtime."""
    arithmetic: str = "exact"
    """The runtime's arithmetic, where it is the runtime."""
    cost: float = 1.0
    """Roughly what a picture takes relative to `ours-fast`: for the estimate of a run's duration alone."""
    tolerance: Tolerance = EXACT

    def absent(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.packages if version(name) is None]


def _ours(memory: str, cost: float, tolerance: Tolerance, arithmetic: str = "exact") -> System:
    return System(
        f"Pocket Diffusion, {memory}",
        "ours",
        ("pocket-diffusion",),
        memory=memory,
        arithmetic=arithmetic,
        cost=cost,
        tolerance=tolerance,
    )


SYSTEMS = {
    "ours-fast": _ours("fast", 1.0, EXACT),
    "ours-balanced": _ours("balanced", 1.2, EXACT),
    "ours-low": _ours("low", 1.5, TILED),
    "ours-fast-int8": _ours("fast", 0.6, ROUNDED, "int8"),
    "ours-balanced-int8": _ours("balanced", 0.7, ROUNDED, "int8"),
    "ours-low-int8": _ours("low", 1.0, ROUNDED_AND_TILED, "int8"),
    "onnxruntime": System("ONNX Runtime", "onnxruntime", ("onnxruntime",), files="onnx", cost=1.6),
    "openvino-f32": System("OpenVINO, told f32", "openvino_f32", ("openvino",), files="openvino", cost=1.4),
    "openvino": System("OpenVINO", "openvino", ("openvino",), files="openvino", cost=0.9, tolerance=ROUNDED),
    "openvino-nncf": System(
        "OpenVINO, NNCF's U-Net",
        "openvino",
        ("openvino", "nncf"),
        files="openvino-nncf",
        cost=0.6,
        tolerance=ROUNDED,
    ),
    "diffusers": System(
        "diffusers (PyTorch)", "diffusers", ("diffusers", "torch", "transformers"), files="diffusers", cost=2.2
    ),
}
"""By the name that `peers.py --systems` takes."""

OURS = {system.memory: name for name, system in SYSTEMS.items() if name == f"ours-{system.memory}"}
"""The runtime's exact entries by their memory mode."""


def version(package: str) -> str | None:
    """Return an installed distribution's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
