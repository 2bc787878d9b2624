"""What glibc's allocator gives back."""

import subprocess
import sys

import pytest

# The first block raises glibc's own limit, below which the second one would be kept when it is freed. mallinfo(3) tells
# how many blocks are of the other kind, as the fourth of ten numbers.
_SCRIPT = """
import ctypes
from pocket_diffusion.machine.allocator import give_large_back
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.mallinfo.restype = type("", (ctypes.Structure,), {{"_fields_": [("counts", ctypes.c_int * 10)]}})
{before}
libc.free(libc.malloc(20_000_000))
others = libc.mallinfo().counts[3]
libc.malloc(10_000_000)
print(libc.mallinfo().counts[3] - others)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(("before", "given_back"), [("", "0"), ("give_large_back()", "1")])
def test_large_blocks_go_back_whatever_was_freed_before(before: str, given_back: str) -> None:
    command = [sys.executable, "-c", _SCRIPT.format(before=before)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stdout.strip() == given_back, process.stderr
