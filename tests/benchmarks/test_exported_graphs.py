"""rewrites.py, convolution_forms.py, storage.py and fidelity.py on tiny models."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pocket_diffusion.machine.cpu import products_fault
from pocket_export.checkpoint import read_checkpoint
from pocket_export.parts import unet
from report import IDENTICAL_PSNR, psnr
from rewrites import ATTENTION, NOTHING, write_variant

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measure(script: str, output: Path, *options: object) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, options), "--output", str(output)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(output.read_text())


def test_every_rewrite_is_left_out_once(tiny_folder: Path, tmp_path: Path) -> None:
    table, figures = measure("rewrites.py", tmp_path / "r.json", tiny_folder, "--component", "unet", "--rounds", 1)
    variants = figures["components"]["unet"]
    rewrites = [
        "split_geglu",
        "fuse_silu",
        "downsample_tokens",
        "take_concepts",
        "winograd",
        "share_guidance",
        "fold_reshapes",
        "store_float16",
    ]
    assert list(variants) == ["nothing", "fused attention", *rewrites]
    assert all(len(variant["seconds"]) == 1 and variant["median"] > 0 for variant in variants.values())
    assert "without nothing" in table


def test_a_variant_is_the_graph_without_that_rewrite(tiny_folder: Path, tmp_path: Path) -> None:
    part = unet(read_checkpoint(str(tiny_folder), None))
    operators = {}
    for left_out in (NOTHING, ATTENTION, "fuse_silu"):
        component = write_variant(part, left_out, tmp_path / left_out)
        proto = onnx.load(tmp_path / left_out / component.graph, load_external_data=False)
        operators[left_out] = {node.op_type for node in proto.graph.node}
    # Without the operator, no self-attention is found that could look at fewer tokens.
    assert operators[NOTHING] - operators[ATTENTION] == {"MultiHeadAttention", "Gather", "Range"}
    assert operators[NOTHING] - operators["fuse_silu"] == {"QuickGelu"}


def test_every_form_of_a_convolution_is_timed(tiny_folder: Path, tmp_path: Path) -> None:
    table, figures = measure("convolution_forms.py", tmp_path / "c.json", tiny_folder, "--repeats", 1)
    for row in figures["seconds"]:
        assert all(row[form] > 0 for form in ("direct", "winograd_2", "winograd_4"))
    assert {(row["channels_in"], row["channels_out"]) for row in figures["seconds"]} > {(3, 16), (16, 3)}
    assert len(table.splitlines()) == 2 + len(figures["seconds"])
    committed = json.loads((BENCHMARKS.parent / "export/pocket_export/rewrite/convolution_costs.json").read_text())
    assert committed["seconds"][0].keys() == figures["seconds"][0].keys()


def test_smaller_weights_differ_a_little(tiny_bundle_fp32: Path, tiny_bundle_int8: Path, tmp_path: Path) -> None:
    options = ("--size", "64x64", "--steps", 1)
    _, figures = measure("storage.py", tmp_path / "s.json", tiny_bundle_fp32, tiny_bundle_int8, *options)
    assert figures["smaller_weights"] == "int8"
    assert list(figures["networks"]) == ["text_encoder", "unet", "vae_encoder", "vae_decoder"]
    assert all(1e-3 < network["relative_error"] < 0.05 for network in figures["networks"].values())
    assert 20 < figures["picture_psnr_db"] < IDENTICAL_PSNR


def test_a_bundle_is_near_diffusers(tiny_bundle_fp16: Path, tiny_folder: Path, tmp_path: Path) -> None:
    options = ("--size", "72x64", "--picture", 2)
    _, figures = measure("fidelity.py", tmp_path / "f.json", tiny_bundle_fp16, tiny_folder, *options)
    # What float16 rounds off the weights, and with weights that are rounded alike, the order of float32 sums.
    for error in figures["against_source"].values():
        assert 1e-5 < error < 5e-3
    for error in (*figures["against_stored"].values(), figures["picture_from_stored"]["latents"]):
        assert 0 < error < 1e-4
    assert figures["picture_from_stored"]["psnr_db"] > 45


@pytest.mark.skipif(products_fault() is not None, reason="8-bit graphs are refused on this CPU")
def test_8_bit_arithmetic_is_farther_from_diffusers(tiny_bundle_int8: Path, tiny_folder: Path, tmp_path: Path) -> None:
    exact, int8 = (
        measure("fidelity.py", tmp_path / "f.json", tiny_bundle_int8, tiny_folder, "--size", "64x64", *options)[1]
        for options in (("--arithmetic", "exact"), ("--arithmetic", "int8"))
    )
    assert [figures["workload"]["arithmetic"] for figures in (exact, int8)] == ["exact", "int8"]
    assert int8["against_source"]["unet"] > 1.2 * exact["against_source"]["unet"]


def test_psnr() -> None:
    reference = np.zeros((4, 4))
    assert psnr(reference, reference + 1, 100) == pytest.approx(40)
    assert psnr(reference, reference, 100) == IDENTICAL_PSNR
