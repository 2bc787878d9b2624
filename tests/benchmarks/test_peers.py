import importlib
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import peers
from agreement import Drawn, worst_agreements
from drawings import drawn
from fresh_process import StageError
from pocket_diffusion.bundle import COMPONENTS, MANIFEST_NAME
from pocket_diffusion.machine.cpu import products_fault
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from stages import Workload
from systems import SYSTEMS, System

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IN_INT8 = ["ours-fast-int8", "ours-balanced-int8", "ours-low-int8"] if products_fault() is None else []
OURS = ["ours-balanced", "ours-fast", "ours-low", *IN_INT8]
PEERS = ["onnxruntime"]
if find_spec("openvino"):
    PEERS += ["openvino-f32", "openvino"]
    if find_spec("nncf"):
        PEERS += ["openvino-nncf"]
PEERS += ["diffusers"]
STEPS = 2


def command(bundle: Path, checkpoint: Path, cache: Path, *options: str) -> list[str]:
    script = str(BENCHMARKS / "peers.py")
    return [sys.executable, script, str(bundle), str(checkpoint), "--cache", str(cache), *options]


@pytest.fixture(scope="module")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded bundle as if it were stored as float16: peers have no weights like int8 ones."""
    bundle = tmp_path_factory.mktemp("plain") / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    manifest = json.loads((bundle / MANIFEST_NAME).read_text()) | {"weights": "fp16"}
    for name in COMPONENTS:
        manifest[name].pop("int8", None)
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
    return bundle


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ran(
    tiny_bundle_fp16: Path,
    tiny_bundle_int8: Path,
    tiny_folder: Path,
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    output = tmp_path_factory.mktemp("peers") / "peers.json"
    options = ["--steps", str(STEPS), "--rounds", "1", "--output", str(output)]
    if IN_INT8:
        options += ["--int8", str(tiny_bundle_int8)]
    process = subprocess.run(
        command(tiny_bundle_fp16, tiny_folder, cache, *options), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process, json.loads(output.read_text())


def test_every_system_draws_the_same_picture(ran: tuple[Any, dict[str, Any]]) -> None:
    drawings = {drawing["system"]: drawing for drawing in ran[1]["drawings"]}
    assert list(drawings) == OURS + PEERS
    for name, drawing in drawings.items():
        agreement = drawing["agreement"]
        assert agreement["agrees"], name
        if drawing["precision"] == "f32":
            for figure in ("unet", "decoder", "latents"):
                assert agreement[figure] < 1e-5, name  # the float16 weights' rounding alone would be 1e-4
        else:
            assert agreement["unet"] > 1e-3, name


def test_says_what_each_computes_in(ran: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    precisions = ran[1]["precisions"]
    assert {precisions[name] for name in IN_INT8} <= {"8-bit, rest f32"}
    told = {"ours-balanced": "f32", "onnxruntime": "f32", "openvino-f32": "f32", "diffusers": "f32"}
    assert {name: precisions[name] for name in told.keys() & precisions.keys()}.items() <= told.items()
    if "openvino-nncf" in precisions:
        assert precisions["openvino-nncf"] == f"8-bit, rest {precisions['openvino']}"


def test_measures_what_the_tables_tell(ran: tuple[Any, dict[str, Any]]) -> None:
    for measured in ran[1]["measurements"].values():
        medians = {figure: measured[figure]["median"] for figure in peers.FIGURES}
        assert 0 < medians["first_step_begins"] < medians["first_step_ends"] < medians["picture"] < 600
        assert 0 < medians["step"] < medians["picture"] > medians["decode"] > 0
        assert 10**7 < medians["peak_anonymous_bytes"] < medians["peak_rss_bytes"] < 10**9
    disk = {name: measured["bytes_on_disk"]["median"] for name, measured in ran[1]["measurements"].items()}
    assert 1.5 < disk["onnxruntime"] / disk["ours-fast"] < 2.5  # float32 against float16
    assert all(len(drawing["steps"]) == STEPS for drawing in ran[1]["drawings"])


def test_says_what_was_compared(ran: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    process, figures = ran
    assert figures["reference"] == "ours-balanced"
    assert "memory" not in figures["workload"]
    assert figures["machine"]["packages"].keys() >= {"pocket-diffusion", "onnxruntime", "diffusers", "torch"}
    first_column = [line.split("|")[1].strip() for line in process.stdout.splitlines() if line.startswith("|")]
    ratios = [f"{ours} / {peer}" for peer in PEERS for ours in OURS]
    systems = [f"{name} ({precision})" for name, precision in figures["precisions"].items()]
    assert set(first_column) >= {*systems, *ratios}
    assert "1 rounds of" in process.stderr
    assert "min" in process.stderr


def test_another_picture_makes_the_run_fail_and_is_still_reported(
    ran: object, tiny_bundle_fp16: Path, tiny_folder: Path, cache: Path, tmp_path: Path
) -> None:
    (prepared,) = shutil.copytree(cache, tmp_path / "cache").iterdir()
    weights = prepared / "onnx" / "unet.onnx.data"
    weights.write_bytes(bytes(weights.stat().st_size))
    output = tmp_path / "peers.json"
    options = ["--steps", "1", "--rounds", "1", "--systems", "onnxruntime,ours-balanced", "--output", str(output)]
    process = subprocess.run(
        command(tiny_bundle_fp16, tiny_folder, tmp_path / "cache", *options),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "onnxruntime does not agree with ours-balanced: U-Net off by" in process.stderr.splitlines()[-1]
    assert "| NO |" in " ".join(process.stdout.splitlines()[-1].split())
    assert json.loads(output.read_text())["measurements"].keys() == {"ours-balanced", "onnxruntime"}
    assert "writing" not in process.stderr  # the peers' files, which were there


# What the rounds do with what the drawing processes answer.

MEASURED = (
    "first_step_begins",
    "first_step_ends",
    "step",
    "decode",
    "picture",
    "peak_rss_bytes",
    "peak_anonymous_bytes",
)
FIGURES = {**dict.fromkeys(MEASURED, 1.0), "precision": "f32"}


def run(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    folder: Path,
    answer: dict[str, Drawn | BaseException],
    *options: str,
) -> tuple[int, dict[str, Any], str]:
    """Run peers.py with these answers; return its status, figures and last words."""
    said: list[str] = []

    def draw_fresh(name: str, _workload: object, *, arrays: Path | None = None, **_options: object) -> dict[str, Any]:
        reply = answer.get(name, drawn())
        if arrays is None:
            return FIGURES
        if isinstance(reply, BaseException):
            raise reply
        np.savez(arrays / f"{name}.npz", **asdict(reply))
        return FIGURES

    output = folder / "peers.json"
    for name in ("checkpoint", "onnx", "diffusers"):
        (folder / name).mkdir()
        (folder / name / "weights").write_bytes(b"some")
    monkeypatch.setattr(peers, "draw_fresh", draw_fresh)
    monkeypatch.setattr(peers, "prepare", lambda *_: folder)
    monkeypatch.setattr(peers, "progress", said.append)
    given = [str(bundle), str(folder / "checkpoint"), "--size", "64x64", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["peers.py", *given, *options])
    with pytest.raises(SystemExit) as end:
        peers.main()
    assert isinstance(end.value.code, int)
    return end.value.code, json.loads(output.read_text()), said[-1]


def test_an_absent_system_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, plain_bundle: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(SYSTEMS, "openvino", System("OpenVINO", "openvino", ("no-such-package",), files="openvino"))
    status, figures, _ = run(monkeypatch, plain_bundle, tmp_path, {}, "--systems", "ours-balanced,openvino")
    assert status == 0
    assert figures["absent"] == {
        "openvino": 'no-such-package not installed; pip install "pocket-diffusion[peers]"',
    }
    assert figures["measurements"].keys() == {"ours-balanced"}


def test_a_system_that_fails_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, plain_bundle: Path, tmp_path: Path
) -> None:
    status, figures, last = run(
        monkeypatch,
        plain_bundle,
        tmp_path,
        {"onnxruntime": StageError("killed")},
        "--systems",
        "onnxruntime,ours-balanced,diffusers",
    )
    assert status == 1
    assert last == "onnxruntime: killed"
    assert [drawing["system"] for drawing in figures["drawings"]] == ["ours-balanced", "diffusers"] * 2


def test_the_worst_round_decides(monkeypatch: pytest.MonkeyPatch, plain_bundle: Path, tmp_path: Path) -> None:
    status, figures, last = run(
        monkeypatch, plain_bundle, tmp_path, {"diffusers": drawn(1.1)}, "--systems", "ours-balanced,diffusers"
    )
    assert status == 1
    assert "latents off by 1.0e-01 (at most 1e-03)" in last
    good = {"system": "diffusers", "agreement": {"agrees": True, "latents": 1e-7, "psnr": 90.0}}
    figures["drawings"].append(good)
    assert not worst_agreements(figures["drawings"])["diffusers"]["agrees"]


def test_8_bit_systems_draw_from_their_own_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, tuple[str | None, str, str]] = {}

    def draw_fresh(name: str, workload: Workload, *, arrays: Path, **_options: object) -> dict[str, Any]:
        asked[name] = workload.bundle, workload.memory, workload.arithmetic
        np.savez(arrays / f"{name}.npz", **asdict(drawn()))
        return FIGURES

    monkeypatch.setattr(peers, "draw_fresh", draw_fresh)
    workload = Workload(bundle=None, width=64, height=64, steps=1, provider="cpu", threads=None, memory="fast")
    peers.Comparison({}, workload, ["ours-balanced", "ours-low-int8"], tmp_path, str(tmp_path)).run_round()
    assert asked == {
        "ours-balanced": (None, "balanced", "exact"),
        "ours-low-int8": (str(tmp_path), "low", "int8"),
    }


def test_what_was_measured_before_an_interruption_is_kept(
    monkeypatch: pytest.MonkeyPatch, plain_bundle: Path, tmp_path: Path
) -> None:
    answer = {"diffusers": KeyboardInterrupt()}
    status, figures, _ = run(
        monkeypatch, plain_bundle, tmp_path, answer, "--systems", "ours-balanced,onnxruntime,diffusers"
    )
    assert status == 128 + signal.SIGINT
    assert figures["measurements"].keys() == {"ours-balanced", "onnxruntime"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere"], "there is no nowhere; give what the bundle was exported from"),
        ([".", "--systems", "ours-fast,tvm"], "'tvm' is none of ours-fast, ours-balanced"),
        ([".", "--systems", "ours-low-int8"], "draw from a bundle exported with --weights int8; give it with --int8"),
        ([".", "--int8", "BUNDLE"], "arithmetic int8 is not possible here: "),
        ([".", "--int8", "nowhere"], "nowhere"),
    ],
)
def test_refuses_before_any_work(plain_bundle: Path, options: list[str], named: str) -> None:
    given = [str(plain_bundle), *(str(plain_bundle) if option == "BUNDLE" else option for option in options)]
    process = subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers.py"), *given], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert named in process.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["diffusers", "onnxruntime", "openvino", "openvino_f32", "ours", "peer", "reference"])
def test_every_system_can_be_imported(name: str) -> None:
    if find_spec(name.removesuffix("_f32")) or name in ("ours", "peer", "reference"):
        assert importlib.import_module(f"systems.{name}")
