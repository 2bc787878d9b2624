"""Stable Diffusion on small machines: draw from an exported bundle with NumPy and ONNX Runtime, without PyTorch.

from pocket_diffusion import Pipeline

result = Pipeline.load().generate("a lake under snowy mountains at sunset", seed=1)
result.save("lake.png")
"""

from pocket_diffusion.errors import Cancelled, PocketDiffusionError
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.result import Result
from pocket_diffusion.version import __version__

__all__ = ["Cancelled", "Pipeline", "PocketDiffusionError", "Result", "__version__"]
