"""The CPU: which instructions it has, and whether it multiplies in 8 bits fast and right."""

import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import Component, TensorSpec
from pocket_diffusion.machine.session import GraphSession

USEFUL_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "amx_int8",
    "asimd", "asimdhp", "asimddp", "sve",
)  # fmt: skip
"""The vector extensions that matter here, as Linux names them."""
_PRODUCT_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
"""Any of them adds four 8-bit products to a 32-bit sum in one instruction."""
_CPU_INFO = Path("/proc/cpuinfo")

PROBE = Path(__file__).parent / "products.onnx"
"""A graph that rounds nothing: float32 activations become uint8, and are multiplied with `probe_weights`."""
PROBE_WEIGHTS = (35, 17)
"""The shape `[inputs, outputs]`: neither is a multiple of what kernels take at once."""
ZERO_POINT = 128
_PROBE = Component(
    graph=PROBE.name,
    weights=PROBE.name,
    inputs=(TensorSpec(name="activations", dtype="float32", shape=("rows", PROBE_WEIGHTS[0])),),
    outputs=(TensorSpec(name="products", dtype="float32", shape=("rows", PROBE_WEIGHTS[1])),),
    parameters=PROBE_WEIGHTS[0] * PROBE_WEIGHTS[1],
    parity=(),
)


def cpu_flags() -> frozenset[str] | None:
    """Return the names of the instruction sets that the CPU has, or None where the system does not tell."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return None
    found = [line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(flag for flags in found for flag in flags) or None


def cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def products_are_fast() -> bool | None:
    """Tell whether 8-bit products are faster than float32 products, or None where the system does not tell."""
    flags = cpu_flags()
    return None if flags is None else bool(flags & _PRODUCT_FLAGS)


@cache
def products_are_right() -> bool:
    """Tell whether 8-bit products come out exact. They are tried once a process.

    x86 CPUs without VNNI add two products in 16 bits, and such a sum saturates without a word. The products tried are
    large enough for that. Both ways in which sessions are opened are tried, with one row and with several, since ONNX
    Runtime has kernels of its own for these.

    Raises:
        RuntimeUnavailableError: ONNX Runtime is not installed.
        OperatorUnavailableError: this ONNX Runtime has no such products.

    """
    weights = probe_weights().astype(np.int64)
    for prepacked in (False, True):
        session = GraphSession(PROBE.parent, "products", _PROBE, "cpu", threads=1, expand_weights=prepacked)
        for rows in (1, 7):
            activations = probe_activations(rows)
            exact = (activations.astype(np.int64) - ZERO_POINT) @ weights
            if not np.array_equal(session.run(activations=activations)["products"], exact):
                return False
    return True


def products_fault() -> str | None:
    """Return why the exact graphs are better on this CPU, or None where nothing speaks against 8-bit products.

    Raises:
        RuntimeUnavailableError, OperatorUnavailableError: see `products_are_right`.

    """
    flags = cpu_flags() or frozenset()
    needed = "dot products (asimddp)" if "asimd" in flags else "VNNI (avx512_vnni, avx_vnni or amx_int8)"
    if not products_are_right():
        return f"8-bit products come out wrong on this CPU, whose sums saturate in 16 bits as those without {needed} do"
    if products_are_fast() is False:
        return f"8-bit products would be slower than exact ones on this CPU, which lacks {needed}"
    return None


def probe_weights() -> NDArray[np.int8]:
    """Return the weights of the graph at `PROBE`: large ones, and pairs of neighbours mostly of the same sign."""
    rows, columns = np.indices(PROBE_WEIGHTS)
    return np.where((rows + columns) % 5 == 0, -127, 127).astype(np.int8)


def probe_activations(rows: int) -> NDArray[np.float32]:
    """Return `[rows, inputs]` whole numbers up to 255, the largest most often."""
    row, column = np.indices((rows, PROBE_WEIGHTS[0]))
    return np.where((row + column) % 7 == 0, 3, 255).astype(np.float32)
