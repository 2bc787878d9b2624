"""What the CPU can do, and that a wrong product is seen wherever it comes out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocket_diffusion.machine import cpu
from pocket_diffusion.machine.cpu import (
    ZERO_POINT,
    cpu_flags,
    probe_activations,
    probe_weights,
    products_are_fast,
    products_are_right,
    products_fault,
)
from pocket_diffusion.machine.session import GraphSession

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


def exact(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return activations.astype(int) @ weights.astype(int)


def saturating(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Add the products of neighbours in 16 bits, as x86 CPUs without VNNI do (the instruction PMADDUBSW)."""
    odd = activations.shape[1] % 2
    rows, columns = np.pad(activations.astype(int), [(0, 0), (0, odd)]), np.pad(weights.astype(int), [(0, odd), (0, 0)])
    pairs = np.einsum("mpk,pkn->mpnk", rows.reshape(len(rows), -1, 2), columns.reshape(-1, 2, columns.shape[1]))
    return np.clip(pairs.sum(-1), -(2**15), 2**15 - 1).sum(1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Let no test see what another has found out."""
    products_are_right.cache_clear()
    yield
    products_are_right.cache_clear()


@pytest.fixture
def set_product(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[bool, int]]]:
    """Have sessions multiply so; returns with which weights, prepacked or not, and how many rows they did."""

    def set_to(product: Product, *, only: tuple[bool, int] | None = None) -> list[tuple[bool, int]]:
        ran = []

        class Session:
            def __init__(self, *_: object, expand_weights: bool, **__: object) -> None:
                self.prepacked = expand_weights

            def run(self, activations: np.ndarray) -> dict[str, np.ndarray]:
                way = self.prepacked, len(activations)
                ran.append(way)
                multiply = product if only in (None, way) else exact
                products = multiply(activations, probe_weights()) - ZERO_POINT * probe_weights().astype(int).sum(0)
                return {"products": products.astype(np.float32)}

        monkeypatch.setattr(cpu, "GraphSession", Session)
        return ran

    return set_to


def test_the_graph_is_the_one_that_its_script_makes() -> None:
    onnx = pytest.importorskip("onnx")
    from products_graph import products_graph

    assert onnx.load(cpu.PROBE) == products_graph()


@pytest.mark.parametrize("prepacked", [False, True])
@pytest.mark.parametrize("rows", [1, 7])
def test_the_graph_multiplies_and_is_exact_unless_the_cpu_saturates(prepacked: bool, rows: int) -> None:
    session = GraphSession(cpu.PROBE.parent, "products", cpu._PROBE, "cpu", expand_weights=prepacked)
    activations, weights = probe_activations(rows), probe_weights()
    found = session.run(activations=activations)["products"] + ZERO_POINT * weights.astype(int).sum(0)
    assert any(np.array_equal(found, product(activations, weights)) for product in (exact, saturating))


@pytest.mark.parametrize("rows", [1, 7])
def test_every_product_tried_is_far_off_where_pairs_saturate(rows: int) -> None:
    activations, weights = probe_activations(rows), probe_weights()
    difference = saturating(activations, weights) - exact(activations, weights)
    assert np.abs(difference).min() > 2**15


def test_exact_products_are_right_and_tried_once(set_product: Callable[..., list[tuple[bool, int]]]) -> None:
    ran = set_product(exact)
    assert products_are_right()
    assert products_are_right()
    assert sorted(ran) == [(False, 1), (False, 7), (True, 1), (True, 7)]


def test_saturating_products_are_wrong(set_product: Callable[..., Any]) -> None:
    set_product(saturating)
    assert not products_are_right()


@pytest.mark.parametrize("way", [(False, 1), (False, 7), (True, 1), (True, 7)])
def test_a_single_kernel_that_saturates_is_enough(set_product: Callable[..., Any], way: tuple[bool, int]) -> None:
    set_product(saturating, only=way)
    assert not products_are_right()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor : 0\nflags\t\t: fpu avx2\n\nprocessor : 1\nflags\t\t: fpu avx2\n", {"fpu", "avx2"}),
        ("processor : 0\nFeatures\t: fp asimd asimddp\n", {"fp", "asimd", "asimddp"}),
        ("isa : rv64gc\n", None),
        (None, None),
    ],
    ids=["x86", "Arm", "another", "another system"],
)
def test_flags_are_those_that_linux_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, flags: set[str] | None
) -> None:
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert cpu_flags() == flags


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        (["avx2", "avx512_vnni"], True),
        (["avx2", "avx_vnni"], True),
        (["avx2", "amx_int8"], True),
        (["asimd", "asimddp"], True),
        (["avx2", "avx512f"], False),
        (["asimd"], False),
        ([], None),
    ],
)
def test_products_are_fast_where_an_instruction_adds_four_of_them(
    set_cpu: Callable[..., None], flags: list[str], fast: bool | None
) -> None:
    set_cpu(*flags)
    assert products_are_fast() is fast


@pytest.mark.parametrize(
    ("flags", "right", "fault"),
    [
        (["avx2", "avx_vnni"], True, None),
        ([], True, None),
        (["sse4_1"], True, "slower than exact ones on this CPU, which lacks VNNI (avx512_vnni, avx_vnni or amx_int8)"),
        (["asimd"], True, "slower than exact ones on this CPU, which lacks dot products (asimddp)"),
        (["avx2"], False, "wrong on this CPU, whose sums saturate in 16 bits as those without VNNI"),
        (["avx2", "avx_vnni"], False, "wrong on this CPU"),
        ([], False, "wrong on this CPU"),
    ],
)
def test_what_speaks_against_8_bits_is_told(
    set_cpu: Callable[..., None], flags: list[str], right: bool, fault: str | None
) -> None:
    set_cpu(*flags, right=right)
    found = products_fault()
    assert (found is None) == (fault is None)
    assert fault is None or fault in found
