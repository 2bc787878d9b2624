"""What without_amx.py refuses, and what it leaves alone."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import without_amx
from machine import describe, machine_facts

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "without_amx.py"
ASK = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
answers = []
for operation, argument in ((0x1023, 18), (0x1003, ctypes.byref(ctypes.c_ulong()))):
    ctypes.set_errno(0)
    libc.syscall(158, operation, argument)
    answers.append(ctypes.get_errno())
print(*answers)
"""
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is of x86-64")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, str(SCRIPT), *command]
    return subprocess.run(arguments, cwd=SCRIPT.parent, capture_output=True, text=True, check=False)


@on_x86
def test_refuses_amx_and_nothing_else_to_all_that_the_command_starts() -> None:
    process = run("sh", "-c", '"$0" -c "$1"; true', sys.executable, ASK)
    assert process.stdout.split() == ["1", "0"], process.stderr  # EPERM; ARCH_GET_FS is answered


@pytest.mark.skipif(not without_amx.is_lent(), reason="this machine has no AMX")
def test_figures_say_that_amx_was_withheld() -> None:
    process = run(sys.executable, "-c", "from machine import *; print(describe(machine_facts()))")
    assert "AMX withheld" in process.stdout
    assert "amx_tile" not in process.stdout
    assert "amx_tile" in describe(machine_facts())


def test_the_command_keeps_its_arguments_and_its_exit_status() -> None:
    process = run("sh", "-c", 'echo "$0"; exit 3', "one word")
    assert (process.returncode, process.stdout) == (3, "one word\n")


@pytest.mark.parametrize(
    ("command", "named"),
    [([], "usage: python benchmarks/without_amx.py COMMAND..."), (["nowhere"], "nowhere cannot be run")],
)
def test_refuses_what_is_no_command(command: list[str], named: str) -> None:
    process = run(*command)
    assert process.returncode == 1
    assert named in process.stderr
