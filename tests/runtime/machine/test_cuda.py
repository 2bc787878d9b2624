"""What keeps CUDA from being used is found out before ONNX Runtime tries, and told with what to do about it."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pocket_diffusion.machine import cuda
from pocket_diffusion.machine.cuda import LIBRARIES, Cuda, find_cuda
from stub_driver import SOURCE, StubDriver


def test_all_is_there(driver: StubDriver) -> None:
    found = find_cuda("13.0")
    assert found == Cuda(driver="13.0", gpu="Stub")
    assert str(found) == "Stub, a driver for CUDA 13.0, cuDNN 9"


@pytest.mark.parametrize(
    ("lacks", "obstacle", "remedy"),
    [
        (
            {"is_there": False},
            "no NVIDIA driver is found (libcuda.so.1: cannot open",
            "install its release 580 or newer",
        ),
        ({"version": 12080}, "NVIDIA's driver is for CUDA 12.8, and ONNX Runtime needs 13", "release 580 or newer"),
        ({"start": 100}, "finds no GPU (as the driver says, CUDA error 100)", "CUDA_VISIBLE_DEVICES"),
        ({"gpus": 0}, "finds no GPU (as the driver says, CUDA error 100)", "--gpus all"),
        ({"start": 803}, "does not start (as the driver says, CUDA error 803)", "restart"),
        ({"capability": (6, 1)}, "Stub has compute capability 6.1, and CUDA 13 needs 7.5", "take a newer GPU"),
        (
            {"missing": {"libcublas.so.13", "libcudnn.so.9"}},
            "needs CUDA 13 and cuDNN 9, and these do not load: libcublas.so.13, libcudnn.so.9 (",
            'pip install "pocket-diffusion[cuda]"',
        ),
    ],
)
def test_what_is_missing_is_told_with_the_remedy(
    driver: StubDriver, lacks: dict[str, Any], obstacle: str, remedy: str
) -> None:
    for name, value in lacks.items():
        setattr(driver, name, value)
    found = find_cuda("13.0")
    assert obstacle in (found.obstacle or "")
    assert remedy in found.remedy
    assert str(found) == found.obstacle


@pytest.mark.parametrize(("built_for", "told"), [("12.8", "12.8"), ("", "(unknown)")])
def test_an_onnxruntime_for_another_cuda_is_told_before_the_driver_is_asked(
    driver: StubDriver, built_for: str, told: str
) -> None:
    found = find_cuda(built_for)
    assert found.obstacle == f"this ONNX Runtime was built for CUDA {told}, not 13"
    assert driver.opened == []


def test_nvidias_wheels_come_before_what_the_system_has(
    driver: StubDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    brought = [
        tmp_path / "nvidia" / "cu13" / "lib" / LIBRARIES[0],
        tmp_path / "nvidia" / "cudnn" / "lib" / LIBRARIES[-1],
    ]
    for path in brought:
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "nvidia" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    find_cuda("13.0")
    assert driver.opened[1:] == [str(brought[0]), *LIBRARIES[1:-1], str(brought[1])]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_driver_in_c_is_called_as_its_header_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stub.c").write_text(SOURCE)
    stub = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", stub, tmp_path / "stub.c"], check=True)
    monkeypatch.setattr(cuda, "DRIVER", str(stub))
    monkeypatch.setattr(cuda, "LIBRARIES", ())
    assert find_cuda("13.0") == Cuda(driver="13.2", gpu="Stub 7")
    with pytest.raises(cuda._ObstacleError, match="an error, CUDA error 999"):
        cuda._check(ctypes.CDLL(str(stub)), 999)
