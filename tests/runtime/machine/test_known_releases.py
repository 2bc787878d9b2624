"""Which release of ONNX Runtime is known to be bad where."""

import platform
from collections.abc import Collection

import pytest

from pocket_diffusion.machine.known_releases import KNOWN_FAULTS, RECOMMENDED, known_faults
from pocket_diffusion.machine.session import onnxruntime

SME = {"asimd", "sme"}


@pytest.mark.parametrize(
    ("version", "machine", "system", "flags", "in_half_precision", "found"),
    [
        ("1.24.4", "aarch64", "Linux", SME, False, [28231]),
        ("1.26.0", "aarch64", "Linux", SME, False, [28231]),
        ("1.26.0", "aarch64", "Linux", None, False, [28231]),
        ("1.26.0", "aarch64", "Linux", {"asimd"}, False, []),
        ("1.27.0", "aarch64", "Linux", SME, False, []),
        ("1.26.0", "x86_64", "Linux", {"avx2"}, False, []),
        ("1.25.1", "arm64", "Darwin", None, False, [28231, 29538]),
        ("1.27.0", "arm64", "Darwin", None, False, [29538, 31569]),
        ("1.28.0", "arm64", "Darwin", None, False, []),
        ("1.29.0", "x86_64", "Linux", {"avx2"}, True, [32255, 32186]),
        ("1.29.0", "AMD64", "Windows", None, True, [32255, 32186]),
        ("1.29.0", "aarch64", "Linux", SME, True, [32186]),
        ("1.29.0", "x86_64", "Linux", {"avx2"}, False, []),
        ("1.30.0.dev20260901", "x86_64", "Linux", {"avx2"}, True, []),
    ],
)
def test_a_fault_is_told_on_the_releases_and_machines_that_have_it(
    monkeypatch: pytest.MonkeyPatch, version: str, machine: str, system: str, flags: Collection[str] | None,
    in_half_precision: bool, found: list[int],
) -> None:  # fmt: skip
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "system", lambda: system)
    faults = known_faults(version, flags, in_half_precision=in_half_precision)
    numbers = [int(fault.source.rpartition("/")[2]) for fault in faults if not fault.is_dangerous]
    assert numbers == found


@pytest.mark.parametrize(("version", "found"), [("1.24.0", 1), ("1.30.0", 1), ("1.30.1", 0), ("1.31.0", 0)])
def test_what_a_hostile_graph_can_do_is_told_on_all_machines(version: str, found: int) -> None:
    assert sum(fault.is_dangerous for fault in known_faults(version, {"avx2"})) == found


def test_the_release_that_is_recommended_has_none_and_is_what_the_tests_run_with() -> None:
    recommended = tuple(map(int, RECOMMENDED.split(".")))
    assert all(fault.until <= recommended for fault in KNOWN_FAULTS)
    assert onnxruntime().__version__.startswith(f"{RECOMMENDED}.")


def test_every_fault_has_its_source() -> None:
    assert all(fault.source.startswith("https://github.com/microsoft/onnxruntime/") for fault in KNOWN_FAULTS)
