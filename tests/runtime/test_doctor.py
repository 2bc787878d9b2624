"""The traps that doctor knows."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocket_diffusion import doctor
from pocket_diffusion.doctor import examine
from pocket_diffusion.errors import RuntimeUnavailableError
from pocket_diffusion.machine import session
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

RunCli = Callable[..., SimpleNamespace]


@pytest.fixture
def flavours(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """One flavour, of the version that is imported; to be changed."""
    found = {"onnxruntime": session.onnxruntime().__version__}
    monkeypatch.setattr(doctor, "installed_flavours", lambda: found)
    return found


def test_a_good_machine_has_no_fault(flavours: dict[str, str], run_cli: RunCli) -> None:
    outcome = run_cli("doctor", "--provider", "cpu")
    assert (outcome.code, outcome.err) == (0, "")
    assert "no fault found" in outcome.out
    assert f"onnxruntime {flavours['onnxruntime']}" in outcome.out
    assert "loads on cpu" in outcome.out


def test_both_flavours_are_a_fault(flavours: dict[str, str], run_cli: RunCli) -> None:
    flavours["onnxruntime-gpu"] = flavours["onnxruntime"]
    outcome = run_cli("doctor")
    assert outcome.code == 1
    assert "overwrite each other's files; `pip uninstall onnxruntime onnxruntime-gpu`" in outcome.err
    assert "no fault" not in outcome.out


def test_cuda_without_the_flavour_is_a_fault(flavours: dict[str, str], run_cli: RunCli) -> None:
    assert list(flavours) == ["onnxruntime"]
    outcome = run_cli("doctor", "--provider", "cuda")
    assert outcome.code == 1
    assert "CUDA needs the other flavour" in outcome.err


def test_cuda_that_falls_back_silently_is_a_fault(flavours: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    flavours["onnxruntime-gpu"] = flavours.pop("onnxruntime")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(doctor, "available_providers", lambda: names)
    monkeypatch.setattr(session, "available_providers", lambda: names)
    fallen = SimpleNamespace(get_providers=lambda: names[1:])
    monkeypatch.setattr(session, "_open", lambda *_: fallen)
    (fault,) = examine(DEFAULT_BUNDLE, "cuda").faults
    assert "fell back to the CPU" in fault


def test_another_onnxruntime_than_the_installed_one_is_a_fault(flavours: dict[str, str]) -> None:
    flavours["onnxruntime"] = "0.0.1"
    assert "not the one that pip installed" in examine(DEFAULT_BUNDLE, "cpu").faults[0]


def test_no_onnxruntime_is_a_fault(flavours: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeUnavailableError("not installed")

    flavours.clear()
    monkeypatch.setattr(doctor, "onnxruntime", missing)
    report = examine(DEFAULT_BUNDLE, "cpu")
    assert report.faults == ["not installed"]
    assert ("onnxruntime", "not installed") in report.facts


@pytest.mark.usefixtures("flavours")
def test_a_bundle_for_another_target_is_a_hint(
    bundle: Path, edit_manifest: Callable[..., None], run_cli: RunCli
) -> None:
    edit_manifest(lambda data: data.update(target="cuda"))
    outcome = run_cli("doctor", bundle, "--provider", "cpu")
    assert outcome.code == 0
    assert "hint: " in outcome.out
    assert "export it with --target cpu" in outcome.out


@pytest.mark.usefixtures("flavours")
def test_a_missing_bundle_is_a_fault(tmp_path: Path, run_cli: RunCli) -> None:
    outcome = run_cli("doctor", tmp_path / "nothing")
    assert outcome.code == 1
    assert "no bundle at" in outcome.err
