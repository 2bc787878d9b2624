"""What a figure was measured on: the facts that decide how fast a machine draws, and nothing that identifies it."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import without_amx
from pocket_diffusion.machine.cpu import cores

PACKAGES = ("pocket-diffusion", "onnxruntime", "onnxruntime-gpu", "numpy")
"""What the runtime runs on."""

_FLAGS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16")
_AMX_FLAGS = ("amx_tile", "amx_bf16", "amx_int8")
_ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "i8mm", "sve")


def machine_facts(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Return the facts, with the load average as it is now; `None` or empty where the system does not tell.

    The versions of those of `packages` that are installed are among them.
    """
    cpu = _fields("/proc/cpuinfo")
    memory = _fields("/proc/meminfo")
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu.get("model name") or _board() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": cores(),
        "cpu_flags": [flag for flag in _FLAGS + _AMX_FLAGS + _ARM_FLAGS if flag in flags],
        "amx_withheld": "amx_tile" in flags and not without_amx.is_lent(),
        "memory_bytes": _kilobytes(memory.get("MemTotal")),
        "available_memory_bytes": _kilobytes(memory.get("MemAvailable")),
        "gpus": _gpus(),
        "system": _system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": _versions(packages),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def describe(facts: dict[str, Any]) -> str:
    """Return the facts that a table of figures needs beside it, as one line."""
    flags = [flag for flag in facts["cpu_flags"] if not (facts["amx_withheld"] and flag in _AMX_FLAGS)]
    flags += ["AMX withheld"] * facts["amx_withheld"]
    parts = [f"{facts['cpu']}, {facts['usable_cores']} cores ({', '.join(flags)})", *facts["gpus"]]
    if facts["memory_bytes"]:
        parts.append(f"{facts['memory_bytes'] / 2**30:.1f} GiB")
    parts += [facts["system"], f"Python {facts['python']}"]
    parts += [f"{name} {version}" for name, version in facts["packages"].items()]
    parts.append(f"load average {facts['load_average'][0]:.2f} at start")
    return "; ".join(parts)


def _fields(path: str) -> dict[str, str]:
    """Return the `name: value` lines of a file, the first of each name."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields


def _kilobytes(text: str | None) -> int | None:
    """Return the bytes of a value such as `16384 kB`."""
    return None if text is None else int(text.removesuffix("kB")) * 1024


def _board() -> str:
    """Name the board, where the CPU has no name of its own (most ARM systems)."""
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    return ""


def _gpus() -> list[str]:
    """Return the name, memory and driver of each NVIDIA GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.system()


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
