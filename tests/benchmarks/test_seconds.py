"""seconds.py on a tiny model, beside diffusers."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from machine import machine_facts
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from seconds import WAYS, plan, tables

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "seconds.py"


def run(*options: object) -> SimpleNamespace:
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def test_every_way_is_drawn_twice_in_a_process(tiny_bundle_fp32: Path, tiny_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "seconds.json"
    options = ("--ways", "dpmpp-reuse,turbo", "--systems", "ours-balanced,diffusers", "--size", "64x64", "--rounds", 1)
    done = run(tiny_bundle_fp32, tiny_folder, *options, "--cache", tmp_path, "--output", output)
    assert done.code == 0, done.err
    figures = json.loads(output.read_text())
    drawn = {tuple(one["measurement"]): one["drawings"][0] for one in figures["measurements"]}
    assert list(drawn) == [
        ("ours-balanced", "dpmpp-reuse", "own"),  # peers have no caches
        ("ours-balanced", "turbo", "own"),
        ("diffusers", "turbo", "own"),
    ]
    assert all(0 < one["again"] < one["picture"] for one in drawn.values())
    assert [len(one["steps"]) for one in drawn.values()] == [20, 1, 1]
    assert "Turbo, 1 step, own VAE: ours-balanced / diffusers" in done.out


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
        (("--systems", "ours-fast-int8"), "give it with --int8"),
        (("--tiny-vae", "nowhere"), "there is no nowhere"),
    ],
)
def test_refuses_before_any_work(tiny_folder: Path, options: tuple[str, ...], message: str) -> None:
    done = run(DEFAULT_BUNDLE, tiny_folder, *options)
    assert (done.code, message in done.err) == (2, True), done.err


def test_a_cached_way_is_compared_with_peers_without_a_cache() -> None:
    measured = {figure: {"median": 1.0} for figure in ("picture", "again", "first_step_begins", "step", "decode")}
    measured |= {f"peak_{kind}_bytes": {"median": 1e9} for kind in ("rss", "anonymous")}
    figures = {
        "bundle": {"name": "tiny", "weights": "fp16", "target": "cpu"},
        "workload": {"provider": "cpu"},
        "machine": machine_facts(()),
        "precisions": {"ours-fast": "f32", "openvino": "bf16"},
        "failures": {},
        "absent": {},
        "measurements": [
            {"measurement": ("ours-fast", "dpmpp-deep", "own"), "figures": measured},
            {"measurement": ("openvino", "dpmpp", "own"), "figures": measured},
        ],
    }
    assert f"{WAYS['dpmpp-deep'].title}, own VAE: ours-fast / openvino" in "\n".join(tables(figures))
