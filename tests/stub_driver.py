"""NVIDIA's driver and libraries as they would be found: some are there, some are not."""

# ruff: noqa: ANN401, N802 - functions of a library in C, by their names

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocket_diffusion.machine.cuda import DRIVER

SOURCE = """
#include <string.h>
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stub 7", length); return device != 7; }
int cuDeviceGetAttribute(int *value, int a, int device) { *value = a == 75 ? 9 : 0; return device != 7; }
int cuGetErrorString(int status, const char **text) { *text = "an error"; return 0; }
"""
"""A driver of CUDA 13.2 with a GPU of compute capability 9.0, in C (cuda.h)."""


@dataclass
class StubDriver:
    """Stands in for `libcuda.so.1`; its fields are to be changed."""

    is_there: bool = True
    version: int = 13000
    start: int = 0
    """What `cuInit` returns."""
    gpus: int = 1
    capability: tuple[int, int] = (8, 6)
    missing: set[str] = field(default_factory=set)
    """Libraries of NVIDIA's that are not there."""
    opened: list[str] = field(default_factory=list)

    def open_library(self, name: str) -> Any:
        """Stand in for `cuda.open_library`."""
        self.opened.append(name)
        is_there = self.is_there if name == DRIVER else Path(name).name not in self.missing
        if not is_there:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return self

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuInit(self, _: int) -> int:
        return self.start

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, _: Any, ordinal: int) -> int:
        return 0 if ordinal < self.gpus else 101

    def cuDeviceGetName(self, name: Any, *_: Any) -> int:
        name.value = b"Stub"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _: Any) -> int:
        value._obj.value = self.capability[{75: 0, 76: 1}[attribute]]
        return 0

    def cuGetErrorString(self, _: int, text: Any) -> int:
        text._obj.value = b"as the driver says"
        return 0
