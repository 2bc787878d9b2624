"""What a graphics card has free, by a driver that is compiled on the spot."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pocket_diffusion.machine.device_memory import free_device_memory

DRIVER = r"""
#include <stddef.h>
static int pushed = 0;
int cuInit(unsigned flags) { return INITIALISED; }
int cuDeviceGet(int *device, int ordinal) { *device = 5 + ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0x1234567890; return device != 5; }
int cuCtxPushCurrent_v2(void *context) { pushed = context == (void *)0x1234567890; return !pushed; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 23000000000; *total = 24000000000; return !pushed; }
int cuCtxPopCurrent_v2(void **context) { pushed = 0; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(("initialised", "free"), [(0, 23 * 10**9), (100, None)], ids=["GPU", "no GPU"])
def test_the_driver_tells(tmp_path: Path, initialised: int, free: int | None) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", f"-DINITIALISED={initialised}", "-o", library, tmp_path / "driver.c"]
    subprocess.run(command, check=True)
    assert free_device_memory(str(library)) == free
    assert free_device_memory(str(library)) == free  # whatever was left by the first call


def test_without_a_driver_it_is_not_known(tmp_path: Path) -> None:
    assert free_device_memory(str(tmp_path / "libcuda.so.1")) is None
