"""What glibc's allocator is told beyond the C standard; with another one nothing happens.

Settings are those of the whole process, and stay.
"""

import ctypes
import sys

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_AT_ONCE_FROM = 2**16
_LARGE = 2**20


def give_back_at_once() -> None:
    """Have all but small blocks go back to the system when they are freed."""
    _call("mallopt", _M_TRIM_THRESHOLD, _AT_ONCE_FROM)
    _call("mallopt", _M_MMAP_THRESHOLD, _AT_ONCE_FROM)


def give_large_back() -> None:
    """Have blocks of a megabyte and more go back to the system when they are freed.

    By itself glibc raises that limit to the largest block that was freed so far, up to 32 MiB, and keeps those below.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE)


def give_back_now() -> None:
    """Give back what is free now."""
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    if sys.platform == "linux":
        call = getattr(ctypes.CDLL(None), function, None)
        if call is not None:
            call(*arguments)
