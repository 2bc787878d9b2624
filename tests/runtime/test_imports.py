"""What importing loads, in a fresh interpreter."""

import json
import subprocess
import sys

import pytest

FORBIDDEN = {
    "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "transformers", "diffusers", "safetensors", "matplotlib",
    "scipy", "pocket_export", "pocket_models",
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    code += "; import sys, json; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_interface_loads_nothing_heavy() -> None:
    loaded = modules_after(
        "from pocket_diffusion import Pipeline, Result; Pipeline.load(provider='cpu', arithmetic='exact')"
    )
    assert "numpy" in loaded
    assert not loaded & FORBIDDEN


def test_drawing_loads_onnxruntime_and_nothing_of_the_exporter() -> None:
    code = (
        "from pocket_diffusion import Pipeline; "
        "Pipeline.load(provider='cpu').generate('a', width=64, height=64, steps=1)"
    )
    assert modules_after(code) & (FORBIDDEN - {"onnxruntime", "onnx"}) == set()


@pytest.mark.parametrize("code", ["import pocket_diffusion", "import pocket_diffusion.cli"])
def test_the_package_and_its_command_line_do_not_wait_for_numpy(code: str) -> None:
    assert not modules_after(code) & (FORBIDDEN | {"numpy", "PIL", "tokenizers"})
