"""Stable Diffusion on small machines: draw from an exported bundle with NumPy and ONNX Runtime, without PyTorch.

from pocket_diffusion import Pipeline

result = Pipeline.load().generate("a lake under snowy mountains at sunset", seed=1)
result.save("lake.png")
"""

import importlib
from typing import TYPE_CHECKING

from pocket_diffusion.errors import (
    BundleDamagedError,
    BundleFileMissingError,
    BundleFormatError,
    BundleNotFoundError,
    BusyError,
    Cancelled,
    CheckpointError,
    CheckpointNotFoundError,
    ExtraMissingError,
    InferenceError,
    InvalidRequestError,
    NotFiniteError,
    OperatorUnavailableError,
    OutOfMemoryError,
    OutputError,
    PictureNotFoundError,
    PocketDiffusionError,
    PromptsNotFoundError,
    ProviderUnavailableError,
    RuntimeUnavailableError,
    ServerUnavailableError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from pocket_diffusion.version import __version__

if TYPE_CHECKING:
    from pocket_diffusion.machine.turns import Cancellation
    from pocket_diffusion.model.lora import LoraSpec
    from pocket_diffusion.order import LoraUse, Order
    from pocket_diffusion.pipeline import Pipeline
    from pocket_diffusion.result import Result, Step

__all__ = [
    "BundleDamagedError",
    "BundleFileMissingError",
    "BundleFormatError",
    "BundleNotFoundError",
    "BusyError",
    "Cancellation",
    "Cancelled",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ExtraMissingError",
    "InferenceError",
    "InvalidRequestError",
    "LoraSpec",
    "LoraUse",
    "NotFiniteError",
    "OperatorUnavailableError",
    "Order",
    "OutOfMemoryError",
    "OutputError",
    "PictureNotFoundError",
    "Pipeline",
    "PocketDiffusionError",
    "PromptsNotFoundError",
    "ProviderUnavailableError",
    "Result",
    "RuntimeUnavailableError",
    "ServerUnavailableError",
    "Step",
    "UnsafeCheckpointError",
    "UnsupportedModelError",
    "__version__",
]

_LAZY = {
    "Cancellation": "machine.turns",
    "LoraSpec": "model.lora",
    "LoraUse": "order",
    "Order": "order",
    "Pipeline": "pipeline",
    "Result": "result",
    "Step": "result",
}


def __getattr__(name: str) -> object:
    """Import what needs NumPy and Pillow when it is first asked for, so that `pocket-diffusion --help` is quick."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
