"""Whether this machine can compute with CUDA: NVIDIA's driver, a GPU, and the libraries that ONNX Runtime needs.

ONNX Runtime itself lists the provider wherever it was compiled in, and falls back to the CPU in silence where it does
not start.
"""

import ctypes
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CUDA = 13
"""The major version that the extra `[cuda]` brings, which is the one that its ONNX Runtime was built for."""
CUDNN = 9
DRIVER_RELEASE = 580
"""The first release of NVIDIA's driver for it
(https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/index.html, minimum driver versions)."""
OLDEST_GPU = (7, 5)
"""The compute capability of Turing: CUDA 13 has no code for older ones (the same page, deprecated architectures)."""
LIBRARIES = (
    f"libcudart.so.{CUDA}",
    f"libnvrtc.so.{CUDA}",
    f"libcublasLt.so.{CUDA}",
    f"libcublas.so.{CUDA}",
    "libcurand.so.10",
    f"libcudnn.so.{CUDNN}",
)
"""Each comes after those that it needs. `.ci/cuda_wheels.json` says who needs and who brings them."""
DRIVER = "libcuda.so.1"

# CUdevice_attribute and CUresult, in cuda.h
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NO_DEVICE = 100
_LONGEST_NAME = 256

_INSTALL = '`pip install "pocket-diffusion[cuda]"`'
_INTO_CONTAINERS = "run a container with `--gpus all`"


@dataclass(frozen=True)
class Cuda:
    """What was found of CUDA, and what keeps it from being used."""

    obstacle: str | None = None
    """None where it can be used."""
    remedy: str = ""
    """What to do about the obstacle."""
    driver: str | None = None
    """The newest CUDA that the driver is for, such as `13.0`."""
    gpu: str | None = None
    """The name of the first GPU, which is the one that computes."""

    @property
    def refusal(self) -> str:
        """The obstacle and the remedy, in words for whoever wanted to use it."""
        return f"CUDA cannot be used: {self.obstacle}; {self.remedy}"

    def __str__(self) -> str:
        """Return what was found, for a report."""
        return self.obstacle or f"{self.gpu}, a driver for CUDA {self.driver}, cuDNN {CUDNN}"


class _ObstacleError(Exception):
    """What keeps CUDA from being used, and the remedy."""


def open_library(name: str) -> Any:  # noqa: ANN401 - functions of a library have no types
    """Load a shared library by its path, or by a name that the system's loader looks for.

    Raises:
        OSError: it is not there, or does not load.

    """
    return ctypes.CDLL(name)


def find_cuda(built_for: str) -> Cuda:
    """Look for all that ONNX Runtime needs, and load it, as that finds it once it is loaded.

    Processes that are forked from this one afterwards cannot use the GPU, as CUDA has it; those that are spawned can.

    Args:
        built_for: the version of CUDA that ONNX Runtime was built for, such as `13.0`.

    """
    version = gpu = None
    try:
        if built_for.partition(".")[0] != str(CUDA):
            raise _ObstacleError(
                f"this ONNX Runtime was built for CUDA {built_for or '(unknown)'}, not {CUDA}", _INSTALL
            )
        driver = _open_driver()
        version = _version_of(driver)
        gpu = _gpu_of(driver)
        _load_libraries()
    except _ObstacleError as found:
        obstacle, remedy = found.args
        return Cuda(obstacle, remedy, version, gpu)
    return Cuda(driver=version, gpu=gpu)


def _open_driver() -> Any:  # noqa: ANN401 - as above
    try:
        return open_library(DRIVER)
    except OSError as error:
        raise _ObstacleError(
            f"no NVIDIA driver is found ({error})",
            f"install its release {DRIVER_RELEASE} or newer; {_INTO_CONTAINERS}",
        ) from None


def _version_of(driver: Any) -> str:  # noqa: ANN401 - as above
    version = ctypes.c_int()
    _check(driver, driver.cuDriverGetVersion(ctypes.byref(version)))
    major, minor = version.value // 1000, version.value % 1000 // 10
    if major < CUDA:
        raise _ObstacleError(
            f"NVIDIA's driver is for CUDA {major}.{minor}, and ONNX Runtime needs {CUDA}",
            f"update the driver to release {DRIVER_RELEASE} or newer",
        )
    return f"{major}.{minor}"


def _gpu_of(driver: Any) -> str:  # noqa: ANN401 - as above
    """Return the name of the first GPU that this process may use (`CUDA_VISIBLE_DEVICES`)."""
    _check(driver, driver.cuInit(0))
    count, device = ctypes.c_int(), ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    if count.value == 0:
        _check(driver, _NO_DEVICE)
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), 0))
    name = ctypes.create_string_buffer(_LONGEST_NAME)
    _check(driver, driver.cuDeviceGetName(name, _LONGEST_NAME, device))
    gpu = name.value.decode(errors="replace")
    major, minor = ctypes.c_int(), ctypes.c_int()
    for attribute, value in ((_CAPABILITY_MAJOR, major), (_CAPABILITY_MINOR, minor)):
        _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    if (major.value, minor.value) < OLDEST_GPU:
        oldest = ".".join(map(str, OLDEST_GPU))
        raise _ObstacleError(
            f"{gpu} has compute capability {major.value}.{minor.value}, and CUDA {CUDA} needs {oldest}",
            "take a newer GPU (Turing, such as a GTX 1650 or a T4, is the oldest)",
        )
    return gpu


def _check(driver: Any, status: int) -> None:  # noqa: ANN401 - as above
    if status == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    why = f"{(text.value or b'unknown').decode(errors='replace')}, CUDA error {status}"
    if status == _NO_DEVICE:
        raise _ObstacleError(
            f"NVIDIA's driver finds no GPU ({why})",
            f"see what `nvidia-smi` and CUDA_VISIBLE_DEVICES say; {_INTO_CONTAINERS}",
        )
    raise _ObstacleError(
        f"NVIDIA's driver does not start ({why})", "see what `nvidia-smi` says; after an update of the driver, restart"
    )


def _load_libraries() -> None:
    missing = {}
    for name in LIBRARIES:
        try:
            _load(name)
        except OSError as error:
            missing[name] = str(error)
    if missing:
        why = next(iter(missing.values()))
        raise _ObstacleError(
            f"ONNX Runtime needs CUDA {CUDA} and cuDNN {CUDNN}, and these do not load: {', '.join(missing)} ({why})",
            _INSTALL,
        )


def _load(name: str) -> None:
    """Load a library from NVIDIA's wheels, or else from where the system has it."""
    installed = next((path for path in _wheels(name)), None)
    open_library(name if installed is None else str(installed))


def _wheels(name: str) -> Iterator[Path]:
    """Yield where NVIDIA's wheels have a library."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from Path(folder).glob(f"*/lib/{name}")
