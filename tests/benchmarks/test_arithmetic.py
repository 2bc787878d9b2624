import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import arithmetic
from pocket_diffusion.machine.cpu import products_fault
from pocket_diffusion.model.memory import MODES
from report import IDENTICAL_PSNR
from stages import Workload

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "arithmetic.py"
REPEATS, PICTURES = 2, 2
BOTH = ["exact", "int8"]

needs_8_bit_products = pytest.mark.skipif(products_fault() is not None, reason="8-bit graphs are refused on this CPU")


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--size", "64x64", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def ran(tiny_bundle_int8: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    output = tmp_path_factory.mktemp("arithmetic") / "results.json"
    options = ("--steps", 2, "--repeats", REPEATS, "--pictures", PICTURES, "--output", output)
    process = run(tiny_bundle_int8, *options)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(output.read_text())


def cells(table: str, first: str) -> list[str]:
    """Return a row's cells but for the first, which names it."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    (found,) = [row[1:] for row in rows if row[0] == first]
    return found


@needs_8_bit_products
def test_each_8_bit_network_is_off_by_a_little(ran: tuple[str, dict[str, Any]]) -> None:
    table, figures = ran
    assert list(figures["networks"]) == ["unet", "vae_encoder", "vae_decoder"]
    for role, found in figures["networks"].items():
        assert 1e-3 < found["relative_error"] <= found["largest_error"] == max(found["errors"]) < 0.1
        certificate = found["certificate"]
        assert 0 < certificate["relative_error"] <= certificate["bound"]
        assert cells(table, role)[2:] == [f"{certificate[name]:.1e}" for name in ("relative_error", "bound")]


@needs_8_bit_products
def test_every_stage_is_timed_in_every_mode_and_both_arithmetics(ran: tuple[str, dict[str, Any]]) -> None:
    table, figures = ran
    assert list(figures["seconds"]) == list(MODES)
    for mode, stages in figures["seconds"].items():
        assert tuple(stages) == arithmetic.TIMED_STAGES
        for stage, ways in stages.items():
            assert list(ways) == BOTH
            assert all(len(row["seconds"]) == REPEATS for row in ways.values())
            exact, int8 = (statistics.median(ways[name]["seconds"]) for name in BOTH)
            assert cells(table, f"{stage}, {mode}")[-1] == f"{int8 / exact:.2f}"


@needs_8_bit_products
def test_memory_is_that_of_a_fresh_process(ran: tuple[str, dict[str, Any]]) -> None:
    table, figures = ran
    assert list(figures["memory"]) == list(MODES)
    for mode, ways in figures["memory"].items():
        assert list(ways) == BOTH
        assert all(10**7 < ways[name]["peak_anonymous_bytes"] < ways[name]["peak_rss_bytes"] for name in BOTH)
        told = [f"{ways[name]['peak_anonymous_bytes'] / 1e6:.0f}" for name in BOTH]
        assert cells(table, f"peak anonymous, {mode}") == told


@needs_8_bit_products
def test_pictures_are_alike_and_not_judged_where_the_probes_do_not_know_the_model(
    ran: tuple[str, dict[str, Any]],
) -> None:
    table, figures = ran
    assert figures["pictures"].keys() == {"psnr_db"}
    ratios = figures["pictures"]["psnr_db"]
    assert len(ratios["each"]) == PICTURES
    assert 15 < min(ratios["each"]) == ratios["lowest"] < ratios["median"] == statistics.median(ratios["each"])
    assert ratios["median"] < IDENTICAL_PSNR
    assert cells(table, "PSNR against exact, lowest")[1] == f"{ratios['lowest']:.1f} dB"


@needs_8_bit_products
def test_one_mode_alone_and_no_pictures_can_be_asked_for(tiny_bundle_int8: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    options = ("--steps", 1, "--repeats", 1, "--memory", "low", "--pictures", 0, "--output", output)
    assert run(tiny_bundle_int8, *options).returncode == 0
    figures = json.loads(output.read_text())
    assert list(figures["seconds"]) == list(figures["memory"]) == ["low"]
    assert figures["pictures"] is None


def test_refuses_a_bundle_without_8_bit_graphs(tiny_bundle_fp16: Path) -> None:
    process = run(tiny_bundle_fp16)
    assert process.returncode == 2
    assert "the bundle has no 8-bit graph; export it with --weights int8" in process.stderr.splitlines()[-1]


def test_refuses_to_compare_exact_arithmetic_with_itself(tiny_bundle_fp16: Path) -> None:
    process = run(tiny_bundle_fp16, "--arithmetic", "auto")
    assert process.returncode == 2
    assert "--arithmetic auto is exact here" in process.stderr.splitlines()[-1]


def test_the_embedded_models_pictures_are_read_by_the_probes(
    bundle: Path, tiny_bundle_fp16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload(
        bundle=str(bundle), width=128, height=128, steps=1, provider="cpu", threads=None, memory="balanced"
    )
    monkeypatch.setattr(arithmetic, "in_both", lambda workload: dict.fromkeys(BOTH, workload))
    figures = arithmetic.measure_pictures(workload, 2)
    assert figures["psnr_db"]["each"] == [IDENTICAL_PSNR] * 2
    assert figures["shown"]["exact"] == figures["shown"]["int8"]
    assert figures["shown"]["exact"]["pictures with all that was asked"]["of"] == 2
    assert not arithmetic.is_embedded_model(
        Workload(bundle=str(tiny_bundle_fp16), width=64, height=64, steps=1, provider="cpu", threads=None, memory="low")
    )


def test_both_arithmetics_are_those_of_one_workload() -> None:
    workload = Workload(
        bundle=None, width=64, height=64, steps=1, provider="cpu", threads=None, memory="low", arithmetic="int8"
    )
    assert {name: way.arithmetic for name, way in arithmetic.in_both(workload).items()} == {
        "exact": "exact",
        "int8": "int8",
    }
    assert list(arithmetic.in_both(workload)) == BOTH


def test_calls_take_turns() -> None:
    called: list[str] = []
    calls = {name: lambda name=name: called.append(name) for name in ("a", "b")}
    seconds = arithmetic.time_by_turns(calls, 3)
    assert called == ["a", "b"] * 3
    assert [len(times) for times in seconds.values()] == [3, 3]
