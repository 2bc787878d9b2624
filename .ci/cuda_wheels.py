"""Write to cuda_wheels.json what the installed wheels of the extra [cuda] need of each other.

    python -m venv build/cuda
    build/cuda/bin/pip install -c constraints.txt -c constraints-cuda.txt ".[cuda]"
    build/cuda/bin/python .ci/cuda_wheels.py

It takes 2.6 GB of disk and no GPU. tests/runtime/machine/test_cuda_wheels.py compares pyproject.toml,
constraints-cuda.txt and what the runtime looks for with it. Run it again when one of the pins changes.
"""

import json
import re
import subprocess
from importlib.metadata import Distribution, distributions
from pathlib import Path

import onnxruntime

PROVIDER = "libonnxruntime_providers_cuda.so"


def described(wheel: Distribution) -> dict[str, object]:
    """Return a wheel's version, which other wheels of NVIDIA's it requires, and its shared libraries."""
    libraries = sorted(file.name for file in wheel.files or () if ".so" in file.name and file.name != PROVIDER)
    return {
        "version": wheel.version,
        "requires": [one for one in wheel.requires or () if one.startswith("nvidia-")],
        "libraries": [] if wheel.name == "onnxruntime-gpu" else libraries,
    }


def needed(library: Path) -> list[str]:
    """Return the libraries that the system's loader opens with one, by readelf of the binutils."""
    command = ["readelf", "--dynamic", "--wide", str(library)]
    return re.findall(
        r"\(NEEDED\).*\[(.+)\]", subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )


wheels = sorted(
    (one for one in distributions() if one.name == "onnxruntime-gpu" or one.name.startswith("nvidia-")),
    key=lambda one: one.name,
)
table = {
    "built_for": onnxruntime.cuda_version,
    "needed": needed(Path(onnxruntime.__file__).parent / "capi" / PROVIDER),
    "wheels": {one.name: described(one) for one in wheels},
}
Path(__file__).with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
