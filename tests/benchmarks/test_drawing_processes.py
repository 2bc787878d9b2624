"""scaling.py, cold_start.py and plots.py: what fresh processes drew, in tables and pictures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from timeline import Timeline

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def measure(script: str, folder: Path, *options: object) -> tuple[str, dict[str, Any]]:
    output = folder / "results.json"
    process = run(script, "--size", "64x64", "--output", output, *options)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(output.read_text())


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return measure("scaling.py", tmp_path_factory.mktemp("scaling"), "--rounds", 1, "--steps", 1)


@pytest.fixture(scope="module")
def cold_start(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return measure("cold_start.py", tmp_path_factory.mktemp("cold"), "--runs", 1)


def test_scaling_varies_size_threads_and_count(scaling: tuple[str, dict[str, Any]]) -> None:
    _, figures = scaling
    measured = figures["measurements"]
    assert list(measured) == ["size", "threads", "count"]
    assert {"64x64", "64x80", "96x64", "96x96", "128x128"} == set(measured["size"])
    assert list(measured["count"]) == ["1", "2", "4"]
    assert list(measured["threads"])[-1] == str(figures["machine"]["usable_cores"])
    for row in (row for rows in measured.values() for row in rows.values()):
        assert 0 < row["step"] < row["picture"] > row["decode"] > 0
        assert 10**7 < row["peak_anonymous_bytes"] < row["peak_rss_bytes"] < 10**9
    assert measured["count"]["4"]["pixels"] == 4 * 64 * 64


def test_one_thing_alone_can_be_varied(tmp_path: Path) -> None:
    table, figures = measure("scaling.py", tmp_path, "--rounds", 1, "--steps", 1, "--vary", "threads")
    assert list(figures["measurements"]) == ["threads"]
    assert "| threads" in table


def test_time_per_pixel_is_relative_to_the_default_size(scaling: tuple[str, dict[str, Any]]) -> None:
    rows = [line.split("|") for line in scaling[0].splitlines() if line.startswith("| 64x64")]
    assert [cell.strip() for cell in rows[0][-3:-1]] == ["1.00", "1.00"]


def test_cold_start_measures_every_mode(cold_start: tuple[str, dict[str, Any]]) -> None:
    table, figures = cold_start
    assert list(figures["measurements"]) == ["fast", "balanced", "low"]
    for (phases,) in figures["measurements"].values():
        parts = [seconds for phase, seconds in phases.items() if not phase.startswith("first step")]
        assert all(seconds > 0 for seconds in parts)
        assert sum(parts) == pytest.approx(phases["first step begins"])
        assert phases["first step begins"] < phases["first step ends"] < 600
    assert [line.split()[1] for line in table.splitlines() if line.startswith("| ")][1:] == ["fast", "balanced", "low"]


def test_one_mode_alone_can_be_asked_for(tmp_path: Path) -> None:
    _, figures = measure("cold_start.py", tmp_path, "--runs", 1, "--memory", "low", "--arithmetic", "exact")
    assert list(figures["measurements"]) == ["low"]
    assert figures["workload"]["arithmetic"] == "exact"


def test_nothing_heavy_is_imported_before_the_watch_begins() -> None:
    heavy = "{'numpy', 'pocket_diffusion', 'stages', 'onnxruntime', 'torch'}"
    code = f"import draw, sys; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=True)


def test_the_first_step_is_not_in_the_median() -> None:
    timeline = Timeline(0.0)
    timeline.marks = {
        "unet begins": [1.0, 1.4, 6.0],  # guidance as two runs
        "step ends": [6.0, 7.0, 9.0, 12.0],
        "vae_decoder begins": [12.0, 12.5],
        "picture": [13.0],
    }
    figures = timeline.figures()
    assert (figures["first_step_begins"], figures["first_step_ends"], figures["picture"]) == (1, 6, 13)
    assert (figures["steps"], figures["step"], figures["decode"]) == ([5, 1, 2, 3], 2, 1)


def row(seconds: float) -> dict[str, dict[str, float]]:
    names = ("step", "decode", "picture", "peak_rss_bytes", "peak_anonymous_bytes")
    return {name: {"median": seconds * 10**9} for name in names}


def test_plots_are_redrawn_from_results(scaling: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    workload = {"width": 64, "height": 64, "steps": 2}
    measured = {"ours-fast": row(1), "ours-fast-int8": row(0.5), "openvino": row(2)}
    precisions = {"ours-fast": "f32", "ours-fast-int8": "8-bit, rest f32", "openvino": "bf16"}
    results = {
        "scaling": scaling[1],
        "peers": {
            "benchmark": "peers",
            "workload": workload,
            "precisions": precisions,
            "measurements": measured,
        },
    }
    ways = {"dpmpp": {"title": "20 steps"}, "lcm": {"title": "4 steps"}, "turbo": {"title": "1 step"}}
    drawn = [("ours-fast", "dpmpp", "own"), ("openvino", "lcm", "tiny"), ("ours-fast-int8", "turbo", "tiny")]
    figures = row(1) | {"again": None}, row(2) | {"again": {"median": 1}}, row(3) | {"again": {"median": 2}}
    results["seconds"] = {
        "benchmark": "seconds",
        "ways": ways,
        "precisions": precisions,
        "measurements": [{"measurement": a, "figures": b} for a, b in zip(drawn, figures, strict=True)],
    }
    for name, figures in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(figures))
    process = run("plots.py", *tmp_path.glob("*.json"), tmp_path / "pictures")
    assert process.returncode == 0, process.stderr
    for name in results:
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            opaque = np.asarray(picture)[..., 3]
        assert 0.01 < (opaque > 0).mean() < 0.6  # drawn upon, and see-through


def test_plots_refuse_what_is_no_results_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "other.json").write_text('{"benchmark": "latency"}')
    process = run("plots.py", tmp_path / "other.json", tmp_path)
    assert process.returncode == 2
    assert "other.json holds no figures of peers or scaling" in process.stderr
