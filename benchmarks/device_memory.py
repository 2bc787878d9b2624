"""How much memory of a graphics card is taken while something runs, as NVIDIA's NVML tells it."""

import ctypes
import threading
import time
from collections.abc import Callable
from types import TracebackType

_INTERVAL = 0.02
"""Seconds; ONNX Runtime's and PyTorch's arenas keep what they took, so that no peak is shorter."""


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`: bytes (https://docs.nvidia.com/deploy/nvml-api/structnvmlMemory__t.html)."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class DeviceMemoryWatch:
    """Notes what the first card's memory holds beyond what it held before; all processes count."""

    def __init__(self) -> None:
        self._notes: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._used = _open_nvml()
        self._before = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "DeviceMemoryWatch":
        if self._used is not None:
            self._before = self._used()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def peak(self, begin: float, end: float) -> int | None:
        """Return the most bytes between two moments of `time.monotonic()`; None where nobody tells."""
        return max((used - self._before for moment, used in self._notes if begin <= moment <= end), default=None)

    def _watch(self) -> None:
        assert self._used is not None  # noqa: S101 - it is not begun then
        while not self._stop.wait(_INTERVAL):
            self._notes.append((time.monotonic(), self._used()))


def _open_nvml() -> Callable[[], int] | None:
    """Return what tells the bytes in use on the first card; None where there is no NVML or no card."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    card = ctypes.c_void_p()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(card)):
        return None

    def used() -> int:
        memory = _Memory()
        return memory.used if nvml.nvmlDeviceGetMemoryInfo(card, ctypes.byref(memory)) == 0 else 0

    return used
