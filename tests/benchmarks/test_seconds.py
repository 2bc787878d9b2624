"""seconds.py on a tiny model, beside diffusers."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from machine import machine_facts
from random_models import MODELS
from seconds import WAYS, plan, tables

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "seconds.py"


def run(*options: object) -> SimpleNamespace:
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture
def models(tiny_bundle_fp32: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    """Return a folder in which the tiny model stands for two of those that are drawn with."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("sd15", "sd-turbo"):
        (folder / name).symlink_to(tiny_bundle_fp32)
        (folder / MODELS[name].checkpoint).symlink_to(tiny_folder)
    return folder


def drawings(output: Path) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    return {tuple(one["measurement"]): one["drawings"] for one in json.loads(output.read_text())["measurements"]}


def test_every_way_is_drawn_twice_in_a_process(models: Path, tmp_path: Path) -> None:
    output = tmp_path / "seconds.json"
    shared = (models, "--vaes", "own", "--size", "64x64", "--rounds", 1, "--count", 1, "--cache", tmp_path)
    options = ("--ways", "dpmpp-reuse,turbo", "--systems", "ours-balanced,diffusers", "--output", output)
    done = run(*shared, *options)
    assert done.code == 0, done.err
    drawn = drawings(output)
    assert list(drawn) == [
        ("ours-balanced", "dpmpp-reuse", "own"),  # peers have no caches
        ("ours-balanced", "turbo", "own"),
        ("diffusers", "turbo", "own"),
    ]
    assert [len(one[0]["steps"]) for one in drawn.values()] == [20, 1, 1]
    assert all("again" in one[0] for one in drawn.values())
    assert "SD-Turbo, 1 step, its own VAE: ours-balanced / diffusers" in done.out
    assert 15 < json.loads(output.read_text())["alike"]["dpmpp-reuse"]["exact"]["worst"] < 99

    done = run(
        *shared, "--ways", "turbo", "--systems", "ours-fast,ours-balanced", "--once", "--output", output, "--resume"
    )
    assert done.code == 0, done.err
    added = drawings(output)
    assert [(name[:2], len(found)) for name, found in added.items()] == [
        (("ours-balanced", "dpmpp-reuse"), 1),
        (("ours-fast", "turbo"), 1),
        (("ours-balanced", "turbo"), 2),
        (("diffusers", "turbo"), 1),
    ]
    assert "again" not in added["ours-fast", "turbo", "own"][0]


def test_a_tiny_vae_is_one_more_way() -> None:
    assert plan(["ours-fast", "openvino"], ["lcm"], ["own", "tiny"]) == [
        ("ours-fast", "lcm", "own"),
        ("openvino", "lcm", "own"),
        ("ours-fast", "lcm", "tiny"),
        ("openvino", "lcm", "tiny"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ways", "dpmpp,never"), "'never' is none of"),
        (("--vaes", "own,full"), "'full' is none of own, tiny"),
        (("--resume",), "name it with --output"),
    ],
)
def test_refuses_before_any_work(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = run(tmp_path, *options)
    assert (done.code, message in done.err) == (2, True), done.err


def test_a_cached_way_is_compared_with_peers_without_a_cache() -> None:
    measured = {figure: {"median": 1.0} for figure in ("picture", "first_step_begins", "step", "decode")}
    measured |= {f"peak_{kind}_bytes": {"median": 1e9} for kind in ("rss", "anonymous")} | {"again": None}
    figures = {
        "workload": {"width": 64, "height": 64},
        "machine": machine_facts(()),
        "precisions": {"ours-fast": "f32", "openvino": "bf16"},
        "alike": {"dpmpp-deep": {"exact": {"median": 33.3, "worst": 21.0}}},
        "failures": {},
        "absent": {},
        "measurements": [
            {"measurement": ("ours-fast", "dpmpp-deep", "own"), "figures": measured},
            {"measurement": ("openvino", "dpmpp", "own"), "figures": measured},
        ],
    }
    text = "\n".join(tables(figures))
    assert f"{WAYS['dpmpp-deep'].title}, its own VAE: ours-fast / openvino" in text
    assert "33.3 (21.0)" in text
