"""How much memory of the graphics card is free, by NVIDIA's driver."""

import ctypes

from pocket_diffusion.machine.cuda import DRIVER


def free_device_memory(driver: str = DRIVER) -> int | None:
    """Return the bytes that can be had on the first GPU, or None where the driver does not tell.

    The driver tells whoever has a context, and the first call makes the one that ONNX Runtime computes in: it stays.
    `driver` is the file of the library; the functions are those of the CUDA driver API.
    """
    try:
        cuda = ctypes.CDLL(driver)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        for function, *arguments in (
            (cuda.cuInit, 0),
            (cuda.cuDeviceGet, ctypes.byref(device), 0),
            (cuda.cuDevicePrimaryCtxRetain, ctypes.byref(context), device),
            (cuda.cuCtxPushCurrent_v2, context),
            (cuda.cuMemGetInfo_v2, ctypes.byref(free), ctypes.byref(total)),
            (cuda.cuCtxPopCurrent_v2, ctypes.byref(context)),
        ):
            if function(*arguments) != 0:
                return None
    except (OSError, AttributeError):  # no driver, or no function of this name
        return None
    return free.value
