import json
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latency import measure
from report import markdown_table, size, summarise

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "latency.py"
REPEATS, PICTURES, STEPS = 3, 2, 2
COMPONENTS = {"text_encoder", "unet", "vae_encoder", "vae_decoder"}
STAGES = {f"load {name}" for name in COMPONENTS} | {"encode prompt", "guided step", "decode latents"}
LOADED, FRESH = "whole picture, loaded pipeline", "whole picture, fresh process"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], str]:
    output = tmp_path_factory.mktemp("latency") / "new folder" / "latency.json"
    options = {
        "size": "64x72",
        "steps": STEPS,
        "repeats": REPEATS,
        "pictures": PICTURES,
        "memory": "fast",
        "arithmetic": "exact",
        "output": output,
    }
    process = run(*(part for name, value in options.items() for part in (f"--{name}", str(value))))
    assert process.returncode == 0, process.stderr
    return process, output.read_text()


@pytest.fixture(scope="module")
def figures(ran: tuple[subprocess.CompletedProcess[str], str]) -> dict[str, Any]:
    return json.loads(ran[1])


def test_measures_every_stage_as_often_as_asked(figures: dict[str, Any]) -> None:
    counts = {name: len(row["seconds"]) for name, row in figures["measurements"].items()}
    assert counts == dict.fromkeys(STAGES, REPEATS) | {LOADED: PICTURES, FRESH: PICTURES}


def test_sums_up_the_raw_times(figures: dict[str, Any]) -> None:
    for row in figures["measurements"].values():
        assert row["median"] == statistics.median(row["seconds"])
        assert 0 < row["min"] <= row["lower_quartile"] <= row["median"] <= row["upper_quartile"] <= row["max"] < 600
        assert {row["min"], row["max"]} <= set(row["seconds"])


def test_a_loaded_pipeline_loads_nothing_and_a_fresh_process_does(figures: dict[str, Any]) -> None:
    assert [timing["load"] for timing in figures["timings"][LOADED]] == [0] * PICTURES
    assert all(timing["load"] > 0 for timing in figures["timings"][FRESH])


def test_pictures_take_at_least_what_the_runtime_reports_of_them(figures: dict[str, Any]) -> None:
    for name in (LOADED, FRESH):
        for seconds, timing in zip(figures["measurements"][name]["seconds"], figures["timings"][name], strict=True):
            assert timing.keys() == {"load", "encode", "denoise", "decode", "total"}
            assert seconds >= timing["total"] >= timing["encode"] + timing["denoise"] + timing["decode"] > 0


def test_says_what_was_measured_on_what(figures: dict[str, Any]) -> None:
    assert figures["benchmark"] == "latency"
    assert figures["workload"] == {
        "width": 64, "height": 72, "steps": STEPS, "provider": "cpu", "threads": None,
        "memory": "fast", "arithmetic": "exact", "count": 1, "sampler": "ddpm", "scheduler": None,
        "guidance_scale": None, "cache": None, "vae": None,
    }  # fmt: skip
    assert figures["bundle"]["parameters"].keys() == COMPONENTS
    assert figures["bundle"]["bytes_on_disk"] > 0
    machine = figures["machine"]
    assert machine["cpu"]
    assert 1 <= machine["usable_cores"] <= machine["cores"]
    assert machine["memory_bytes"] >= machine["available_memory_bytes"] > 0
    assert machine["packages"].keys() >= {"pocket-diffusion", "numpy"}
    assert len(machine["load_average"]) == 3


def test_does_not_say_where(ran: tuple[subprocess.CompletedProcess[str], str]) -> None:
    process, text = ran
    for published in (process.stdout, text):
        assert str(Path.home()) + "/" not in published
        assert str(SCRIPT.parents[1]) not in published
        assert f'"{socket.gethostname()}"' not in published


def test_prints_a_row_for_each_measurement(
    ran: tuple[subprocess.CompletedProcess[str], str], figures: dict[str, Any]
) -> None:
    rows = [line.split("|")[1].strip() for line in ran[0].stdout.splitlines() if line.startswith("|")]
    assert set(rows) >= figures["measurements"].keys()
    assert "whole pictures: 4 of about" in ran[0].stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere"], "no bundle at nowhere"),
        (["--size", "60x64"], "'60x64' is not a size"),
        (["--size", "512"], "'512' is not a size"),
        (["--repeats", "0"], "'0' is not a whole number from 1"),
        (["--memory", "much"], "invalid choice: 'much' (choose from"),
        (["--warmup", "-1"], "'-1' is not a whole number from 0"),
        (["--output", "/dev/null/results.json"], "cannot write /dev/null/results.json"),
    ],
)
def test_refuses_before_any_work(options: list[str], named: str) -> None:
    process = run(*options)
    assert process.returncode == 2
    assert named in process.stderr.splitlines()[-1]
    assert process.stdout == ""


def test_warm_up_runs_do_not_count() -> None:
    calls: list[int] = []
    assert len(measure("counting", lambda: calls.append(1), warmup=3, repeats=2)) == 2
    assert len(calls) == 5


def test_summarise_knows_quartiles() -> None:
    expected = {"median": 3, "min": 1, "lower_quartile": 2, "upper_quartile": 4, "max": 10}
    assert summarise([10, 1, 3, 2, 4]) == expected
    assert summarise([7.0]) == dict.fromkeys(expected, 7.0)


def test_width_comes_first() -> None:
    assert size("512x384") == (512, 384)


def test_tables_are_aligned_markdown() -> None:
    assert markdown_table(["s", "median"], [["load", "1.5"]]) == "\n".join(
        ["| s    | median |", "|------|-------:|", "| load |    1.5 |"]
    )
