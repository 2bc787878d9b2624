"""Run a command as if the CPU had no AMX: what machines with AVX-512, VNNI and bfloat16 alone would do.

    python benchmarks/without_amx.py COMMAND...

Linux lends a process AMX's tiles only if it asks (https://docs.kernel.org/arch/x86/xstate.html). A seccomp filter
refuses that here, for the command and all that it starts, and the libraries take their next best way. The CPU still
names the instructions. Where there is no AMX, nothing changes.
"""

import ctypes
import errno
import os
import platform
import sys

_ARCH_PRCTL = 158  # on x86-64, like all numbers here
_AUDIT_ARCH_X86_64 = 0xC000003E
_REQUEST_PERMISSION, _TILE_DATA = 0x1023, 18
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER_MODE = 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in `struct seccomp_data`


class _Instruction(ctypes.Structure):
    """`struct sock_filter`."""

    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def is_lent() -> bool:
    """Ask for AMX; return whether this process may use it now."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


def withhold() -> None:
    """Refuse AMX to this process, if it has not asked yet, and to all that it starts.

    Raises:
        OSError: the system has no seccomp filters.

    """
    instructions = [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE),
        _Instruction(_EQUAL, 0, 5, _AUDIT_ARCH_X86_64),
        _Instruction(_LOAD, 0, 0, _NUMBER),
        _Instruction(_EQUAL, 0, 3, _ARCH_PRCTL),
        _Instruction(_LOAD, 0, 0, _FIRST_ARGUMENT),
        _Instruction(_EQUAL, 0, 1, _REQUEST_PERMISSION),
        _Instruction(_RETURN, 0, 0, _REFUSE),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ((_NO_NEW_PRIVILEGES, 1, 0), (_SECCOMP, _FILTER_MODE, ctypes.byref(program)))
    for option, value, address in steps:
        if libc.prctl(option, value, address, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"AMX cannot be withheld: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Become the command."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python benchmarks/without_amx.py COMMAND...")
    if platform.machine() == "x86_64":
        withhold()
    try:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the caller's own command
    except OSError as error:
        raise SystemExit(f"{sys.argv[1]} cannot be run: {error.strerror}") from None


if __name__ == "__main__":
    main()
