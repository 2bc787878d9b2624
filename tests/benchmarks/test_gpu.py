"""The benchmark on a graphics card, tried on the CPU with the embedded model."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import gpu
import gpu_wheels
from gpu import Comparison, summarise_cells, tables
from machine import machine_facts
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

CELLS = ((1, 2), (2, 1))


def arguments(work: Path, systems: list[str], **more: object) -> argparse.Namespace:
    options = {"cells": CELLS, "rounds": 2, "size": (64, 64), "provider": "cpu", "no_reference": True}
    return argparse.Namespace(work=work, systems=systems, **(options | more))


def figures(**more: object) -> dict[str, Any]:
    return {"checkpoint": "tiny", "width": 64, "height": 64, "provider": "cpu", "machine": machine_facts(), **more}


def cell(system: str, seconds: float, **more: object) -> dict[str, Any]:
    evaluations = [(0.0, 0.4 * seconds), (0.5 * seconds, 0.9 * seconds)]
    return {
        "system": system,
        "count": 2,
        "steps": 2,
        "seconds": seconds,
        "evaluations": evaluations,
        "peak_bytes": None,
        "first_picture": None,
        **more,
    }


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the embedded bundle, and nothing for the others; processes may take their time."""
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 3600.0)
    (tmp_path / "ours").symlink_to(DEFAULT_BUNDLE)
    return tmp_path


def test_a_system_draws_its_cells_and_one_that_fails_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in processes of its own; what failed is not tried again."""
    monkeypatch.setitem(gpu.SYSTEMS, "missing", "a system without a module")
    comparison = Comparison(figures(), arguments(work, ["missing", "ours"]), time.monotonic() + 3600)
    comparison.run()
    found = comparison.figures
    assert [(one["round"], one["system"], one["count"], one["steps"]) for one in found["drawings"]] == [
        (number, "ours", *one) for number in (1, 2) for one in CELLS
    ]
    for one in found["drawings"]:
        assert len(one["evaluations"]) == one["count"] * one["steps"]
        begins, ends = zip(*one["evaluations"], strict=True)
        assert 0 < ends[-1] - begins[0] <= one["seconds"] == pytest.approx(one["ends"] - one["begins"])
        assert (one["first_picture"] is None) == (one["count"] == 2)
    assert found["left_out"] == []
    assert found["failures"] == {"missing": "exit status 1: KeyError: 'missing'"}
    report = "\n".join(tables(found))
    assert "missing failed: exit status 1: KeyError: 'missing'" in report
    json.dumps(found, allow_nan=False)


def test_what_there_was_no_time_for_is_told(work: Path) -> None:
    comparison = Comparison(figures(), arguments(work, ["ours"], rounds=1), time.monotonic())
    comparison.run()
    assert [(one["count"], one["steps"]) for one in comparison.figures["drawings"]] == [CELLS[0]]
    assert tables(comparison.figures)[-1] == "left out for want of time: ours, round 1, 2 × 1 steps"


def test_medians_steps_and_idle_shares() -> None:
    rounds = [cell("ours", 2.0, peak_bytes=3e9), cell("ours", 4.0), cell("ours", 3.0), cell("diffusers", 6.0)]
    found = summarise_cells(rounds)
    assert found["ours", 2, 2]["picture"] == 1.5
    assert found["ours", 2, 2]["step"] == pytest.approx(0.9 * 3 / 2)
    assert found["ours", 2, 2]["idle"] == pytest.approx(1 / 9)
    assert (found["ours", 2, 2]["peak_bytes"], found["ours", 2, 2]["psnr"]) == (3e9, None)
    report = tables(figures(drawings=rounds, failures={}, left_out=[]))
    assert " ".join(report[2].splitlines()[-1].split()) == "| ours / diffusers | 2 | 2 | 0.50 |"


def test_wheels_are_cut_and_joined(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9
    (tmp_path / "a.whl").write_bytes(content)
    gpu_wheels.cut(tmp_path / "a.whl", 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.whl.part00{i}" for i in range(3)]
    gpu_wheels.join(tmp_path)
    assert (tmp_path / "a.whl").read_bytes() == content
    gpu_wheels.cut(tmp_path / "a.whl", len(content))
    assert (tmp_path / "a.whl").exists()


def test_wheels_are_gathered_for_the_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--gather", str(tmp_path / "new"), "--only", "diffusers"])
    gpu.main()
    ours, others = asked
    assert ours[3] == "wheel"
    assert others[-2:] == ["--no-deps", "diffusers"]
    assert {"--python-version=3.12", "--platform=manylinux_2_28_x86_64"} < set(others)


def test_the_benchmark_runs_anew_in_the_environment_of_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(gpu_wheels, "install", lambda folder: folder / "python")
    monkeypatch.setattr(gpu_wheels.os, "execv", lambda _path, command: ran.append(command))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--wheels", str(tmp_path), "--size", "64x64"])
    parser = argparse.ArgumentParser()
    gpu_wheels.add_options(parser)
    gpu_wheels.handle(parser.parse_known_args()[0], Path("gpu.py"))
    assert ran == [[str(tmp_path / "python"), "gpu.py", "--size", "64x64"]]


@pytest.mark.parametrize("text", ["4", "0x20", "4x", "x20", "4x0"])
def test_cells_are_pictures_and_steps(text: str) -> None:
    assert gpu._cell("4x20") == (4, 20)
    with pytest.raises(argparse.ArgumentTypeError, match="is not PICTURESxSTEPS such as 4x20"):
        gpu._cell(text)
