import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fresh_process import StageError, run_script
from peak_memory import SAMPLE_SECONDS, AnonymousMemoryWatch, memory_now
from stages import Workload

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ALONE = ("import", "load", "encode prompt", "guided step", "unguided evaluation", "encode image", "decode latents")
WHOLE = tuple(f"whole picture, {mode}" for mode in ("fast", "balanced", "low"))
MB = 10**6

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    output = tmp_path_factory.mktemp("memory") / "memory.json"
    command = [sys.executable, str(BENCHMARKS / "memory.py"), "--size", "64x64", "--arithmetic", "exact"]
    command += ["--output", str(output)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(output.read_text())


def test_measures_every_stage(ran: tuple[str, dict[str, Any]]) -> None:
    table, figures = ran
    assert tuple(figures["measurements"]) == ALONE + WHOLE
    assert figures["benchmark"] == "memory"
    assert figures["workload"]["steps"] == 2
    assert figures["workload"]["arithmetic"] == "exact"
    assert figures.keys() == {"benchmark", "machine", "bundle", "workload", "measurements"}
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert tuple(rows[2:]) == ALONE + WHOLE


def test_what_is_resident_includes_what_is_anonymous(ran: tuple[str, dict[str, Any]]) -> None:
    for peaks in ran[1]["measurements"].values():
        assert peaks.keys() == {"peak_rss_bytes", "peak_anonymous_bytes"}
        assert 5 * MB < peaks["peak_anonymous_bytes"] < peaks["peak_rss_bytes"] < 2000 * MB


def test_each_stage_has_a_process_of_its_own(ran: tuple[str, dict[str, Any]]) -> None:
    rss = {stage: peaks["peak_rss_bytes"] for stage, peaks in ran[1]["measurements"].items()}
    assert rss["import"] == min(rss.values())
    assert rss["decode latents"] < rss["guided step"]  # though it ran after stages that took more


def test_the_watch_sees_memory_that_came_and_went() -> None:
    before = memory_now("RssAnon")
    with AnonymousMemoryWatch() as watch:
        block = np.ones(64 * MB, np.uint8)
        deadline = time.monotonic() + 30
        while watch.peak - before <= 60 * MB:
            assert time.monotonic() < deadline
            time.sleep(SAMPLE_SECONDS)
        del block
    assert watch.peak <= memory_now("VmHWM")
    assert memory_now("RssAnon") < watch.peak - 60 * MB


def test_memory_is_in_bytes() -> None:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = resident_pages * os.sysconf("SC_PAGE_SIZE")
    assert memory_now("VmRSS") == pytest.approx(resident, rel=0.1)


def test_the_runtime_is_imported_only_under_the_watch() -> None:
    code = "import peak_memory, sys; assert not {'numpy', 'pocket_diffusion', 'stages'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=True)


def test_a_stage_that_fails_is_named() -> None:
    nowhere = Workload(bundle="nowhere", width=64, height=64, steps=1, provider="cpu", threads=None, memory="balanced")
    with pytest.raises(StageError, match="'guided step' failed in a fresh process"):
        run_script("peak_memory.py", "guided step", nowhere.as_json())
