"""samplers.py and guidance.py: what they measure, on one small run each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocket_diffusion.drawing.samplers import SAMPLERS
from samplers import Pair, distance

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measure(script: str, folder: Path, *options: object) -> tuple[str, dict[str, Any]]:
    output = folder / "results.json"
    command = [sys.executable, BENCHMARKS / script, "--count", 1, "--output", output, *options]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(output.read_text())


def test_a_row_a_sampler_and_a_picture_of_each(tmp_path: Path) -> None:
    options = ("--pairs", "euler_a,dpm2_a/normal", "--evaluations", "2,4", "--grid-steps", 2)
    table, figures = measure("samplers.py", tmp_path, *options, "--grid", tmp_path / "grid.png")
    assert list(figures["measurements"]) == ["euler_a", "dpm2_a/normal"]
    for measured in figures["measurements"].values():
        assert list(measured) == ["2", "4"]
        assert all(row["distance"] is None and 0 <= row["shown"]["share"] <= 1 for row in measured.values())
    assert [line.split()[1] for line in table.splitlines() if line.startswith("| ")][1:] == ["euler_a", "dpm2_a/normal"]
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 2 * 128


def test_an_unknown_sampler_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "samplers.py"), "--pairs", "eulr"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert process.returncode == 2
    assert "did you mean euler" in process.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "has"), [("euler", True), ("euler_a", False), ("ddim", True), ("dpmpp_sde", True), ("ddpm", False)]
)
def test_only_those_have_a_solution_whose_noise_is_none_or_one_path(name: str, has: bool) -> None:
    assert Pair(SAMPLERS[name], None).has_solution is has


def test_the_distance_is_the_root_mean_square() -> None:
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (30, 40, 0))
    assert distance([black, black], [grey, black])["largest"] == pytest.approx((2500 / 3) ** 0.5)


def test_guidance_is_compared_with_full_guidance(tmp_path: Path) -> None:
    table, figures = measure("guidance.py", tmp_path)
    measured = figures["measurements"]
    assert measured["full guidance"]["ratio"] == 1
    assert measured["full guidance"]["distance"]["largest"] == 0
    assert all(row["distance"]["largest"] > 0 for name, row in measured.items() if name != "full guidance")
    assert "| rescale 0.7" in table
