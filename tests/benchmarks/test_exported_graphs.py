"""rewrites.py, convolution_forms.py and storage.py: what the exporter's choices are worth, on tiny models."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import psnr

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
        "fold_transposes",
        "split_geglu",
        "fuse_silu",
        "winograd",
        "share_guidance",
        "fold_reshapes",
        "store_float16",
    ]
    assert list(variants) == ["nothing", "fused attention", *rewrites]
    assert all(len(variant["seconds"]) == 1 and variant["median"] > 0 for variant in variants.values())
    assert "without nothing" in table


def test_every_form_of_a_convolution_is_timed(tiny_folder: Path, tmp_path: Path) -> None:
    table, figures = measure("convolution_forms.py", tmp_path / "c.json", tiny_folder, "--repeats", 1)
    for row in figures["seconds"]:
        assert all(row[form] > 0 for form in ("direct", "winograd_2", "winograd_4"))
    assert {(row["channels_in"], row["channels_out"]) for row in figures["seconds"]} > {(3, 16), (16, 3)}
    assert len(table.splitlines()) == 2 + len(figures["seconds"])
    committed = json.loads((BENCHMARKS.parent / "export/pocket_export/rewrite/convolution_costs.json").read_text())
    assert committed["seconds"][0].keys() == figures["seconds"][0].keys()


def test_a_bundle_differs_from_itself_by_nothing(tmp_path: Path) -> None:
    bundle = BENCHMARKS.parent / "runtime/pocket_diffusion/default_bundle"
    options = ("--size", "64x64", "--steps", 1)
    _, figures = measure("storage.py", tmp_path / "s.json", bundle, bundle, *options)
    assert set(figures["psnr_db"].values()) == {float("inf")}


def test_psnr() -> None:
    reference = np.zeros((4, 4))
    assert psnr(reference, reference + 1, 100) == pytest.approx(40)
