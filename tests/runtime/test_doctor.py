"""The traps that doctor knows."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocket_diffusion import doctor
from pocket_diffusion.bundle import COMPONENTS
from pocket_diffusion.doctor import examine
from pocket_diffusion.errors import OperatorUnavailableError, RuntimeUnavailableError
from pocket_diffusion.machine import session
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from stub_driver import StubDriver

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
    assert "fault: CUDA cannot be used: this ONNX Runtime has no CUDA provider; `pip uninstall" in outcome.err


@pytest.mark.parametrize(("provider", "code"), [("auto", 1), ("cuda", 1), ("cpu", 0)])
def test_cuda_that_was_installed_and_cannot_be_used_is_a_fault(
    flavours: dict[str, str], driver: StubDriver, run_cli: RunCli, provider: str, code: int
) -> None:
    flavours["onnxruntime-gpu"] = flavours.pop("onnxruntime")
    driver.missing.add("libcublas.so.13")
    outcome = run_cli("doctor", "--provider", provider)
    assert outcome.code == code
    assert ("these do not load: libcublas.so.13" in outcome.err) == bool(code)
    assert ('`pip install "pocket-diffusion[cuda]"`; or use --provider cpu' in outcome.err) == bool(code)


@pytest.mark.usefixtures("driver")
def test_cuda_that_can_be_used_is_a_fact(flavours: dict[str, str], run_cli: RunCli) -> None:
    flavours["onnxruntime-gpu"] = flavours.pop("onnxruntime")
    outcome = run_cli("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Stub, a driver for CUDA 13.0, cuDNN 9" in outcome.out


@pytest.mark.usefixtures("driver")
def test_cuda_that_falls_back_silently_is_a_fault(flavours: dict[str, str]) -> None:
    flavours["onnxruntime-gpu"] = flavours.pop("onnxruntime")
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):  # of the ONNX Runtime that has none, here
        (fault,) = examine(DEFAULT_BUNDLE, "cuda").faults
    assert "ONNX Runtime does not start CUDA" in fault


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


@pytest.mark.usefixtures("flavours")
@pytest.mark.parametrize(
    ("flags", "right", "features", "verdict", "arithmetic"),
    [
        (["avx2", "avx_vnni"], True, "avx2, avx_vnni", "right, and fast", "chosen by auto: unet int8 ("),
        (["asimd", "asimddp"], True, "asimd, asimddp", "right, and fast", "chosen by auto: unet int8 ("),
        (["asimd"], True, "asimd", "8-bit products would be slower", "chosen by auto: exact, since 8-bit products"),
        (["avx2"], False, "avx2", "8-bit products come out wrong", "chosen by auto: exact, since 8-bit products"),
        ([], True, "features unknown", "right; whether they are fast", "chosen by auto: exact, since the system"),
    ],
)
def test_it_tells_what_the_cpu_has_and_what_follows(
    bundle: Path, certify: Callable[..., None], set_cpu: Callable[..., None], flags: list[str], right: bool,
    features: str, verdict: str, arithmetic: str,
) -> None:  # fmt: skip
    certify("unet")
    set_cpu(*flags, right=right)
    report = examine(bundle, "cpu")
    facts = dict(report.facts)
    assert report.faults == []
    assert facts["cpu"] == features
    assert facts["8-bit products"].startswith(verdict)
    assert facts["arithmetic"].startswith(arithmetic)


@pytest.mark.usefixtures("flavours")
def test_a_bundle_without_8_bit_graphs_is_exact(
    bundle: Path, edit_manifest: Callable[..., None], run_cli: RunCli
) -> None:
    edit_manifest(lambda data: [data[name].pop("int8", None) for name in COMPONENTS])
    out = run_cli("doctor", bundle, "--provider", "cpu").out
    assert "chosen by auto: exact, since the bundle has no 8-bit graph" in out


@pytest.mark.usefixtures("flavours")
def test_an_8_bit_graph_that_does_not_load_is_a_fault(
    bundle: Path, certify: Callable[..., None], edit_manifest: Callable[..., None]
) -> None:
    certify("unet")
    (bundle / "unet.int8.onnx").write_bytes(b"not a graph")
    edit_manifest(lambda _: None)
    (fault,) = examine(bundle, "cpu").faults
    assert "unet.int8.onnx" in fault


@pytest.mark.usefixtures("flavours")
def test_an_onnxruntime_without_8_bit_products_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack() -> None:
        raise OperatorUnavailableError("no such products")

    monkeypatch.setattr(doctor, "products_fault", lack)
    assert examine(DEFAULT_BUNDLE, "cpu").faults == ["no such products"]


@pytest.mark.usefixtures("flavours")
def test_a_release_that_is_known_to_be_bad_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, edit_manifest: Callable[..., None], run_cli: RunCli
) -> None:
    edit_manifest(lambda data: data.update(target="cuda"))
    bad = SimpleNamespace(__version__="1.29.0", __file__=doctor.onnxruntime().__file__)
    monkeypatch.setattr(doctor, "onnxruntime", lambda: bad)
    monkeypatch.setattr(doctor, "installed_flavours", lambda: {"onnxruntime": "1.29.0"})
    outcome = run_cli("doctor", bundle, "--provider", "cpu")
    assert outcome.code == 1
    assert "fault: ONNX Runtime 1.29.0 does not load some graphs in float16 (https://github.com/" in outcome.err
    assert '`pip install "onnxruntime>=1.' in outcome.err
    assert "hint: ONNX Runtime 1.29.0 reads outside of its memory when it opens a graph" in outcome.out


def test_the_advice_about_a_bad_release_is_for_the_flavour_that_is_installed(
    flavours: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no onnxruntime-gpu of each release."""
    del flavours["onnxruntime"]
    flavours["onnxruntime-gpu"] = "1.30.0"
    bad = SimpleNamespace(__version__="1.30.0", __file__=doctor.onnxruntime().__file__)
    monkeypatch.setattr(doctor, "onnxruntime", lambda: bad)
    (hint,) = examine(DEFAULT_BUNDLE, "cpu").hints
    assert 'take the release that `pip install --upgrade "pocket-diffusion[cuda]"` brings' in hint
