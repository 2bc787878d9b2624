"""What the command says: one line, exit code 2, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from pocket_diffusion.errors import ExportToolsMissingError
from pocket_export.cli import export

MAIN = "from pocket_diffusion.cli import main; main()"


@pytest.fixture
def checkpoint(place: Path, mini_state: dict[str, torch.Tensor]) -> Path:
    save_file(mini_state, place / "model.safetensors")
    return place / "model.safetensors"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, "export", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_a_hostile_pickle_ends_in_one_line_and_exit_code_2(place: Path, tmp_path: Path) -> None:
    import os

    class Gadget:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    torch.save({"state_dict": {"a": Gadget()}}, place / "model.ckpt")
    done = run(place / "model.ckpt", tmp_path / "out")
    assert_refused(done, "asks to call posix.system", "nothing of it was run", ".safetensors")
    assert not (tmp_path / "canary").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"place"}


def test_a_missing_tensor_ends_in_one_line_and_exit_code_2(
    place: Path, mini_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del mini_state["model.diffusion_model.out.2.weight"]
    save_file(mini_state, place / "model.safetensors")
    done = run(place / "model.safetensors", tmp_path / "out", "--quiet")
    assert_refused(done, "does not fit UNet: conv_out.weight is missing")
    assert {path.name for path in tmp_path.iterdir()} == {"place"}


def test_a_taken_output_ends_in_one_line_and_exit_code_2(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, checkpoint.parent, "--force")
    assert_refused(done, "exists and is no bundle; choose another place")
    assert checkpoint.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--target", "tpu"], "'tpu' is not one of 'cpu', 'cuda'"),
        (["--weights", "int4"], "'int4' is not one of 'fp16', 'fp32', 'int8'"),
        (["--tokenizer", "/nowhere"], "Directory '/nowhere' does not exist"),
    ],
)
def test_a_wrong_option_is_refused_with_the_choices(tmp_path: Path, options: list[str], reason: str) -> None:
    done = CliRunner().invoke(export, ["model.ckpt", str(tmp_path / "out"), *options])
    assert done.exit_code == 2
    assert reason in done.output
    assert not list(tmp_path.iterdir())


def test_says_what_to_install_without_pytorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "pocket_export.export", raising=False)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    done = CliRunner().invoke(export, ["model.ckpt", str(tmp_path / "out")])
    assert isinstance(done.exception, ExportToolsMissingError)
    assert 'run `pip install "pocket-diffusion[export]"`' in str(done.exception)
    assert "onnx_ir" in str(done.exception)
