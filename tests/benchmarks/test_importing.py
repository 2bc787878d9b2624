"""importing.py: what it measures around an import, without one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import importing
from fresh_process import StageError
from importing import STORAGES, measure, measure_here, tables

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "importing.py"
RUN = {
    "seconds": 20.0,
    "placed_seconds": 15.0,
    "peak_anonymous_bytes": 3e8,
    "peak_rss_bytes": 4e8,
    "bytes_on_disk": 2e9,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(3_000_000))
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_weights_are_placed_when_the_networks_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], []

    def import_checkpoint(
        source: str, output: str, *, weights: str, on_progress: Callable[[str, float], None]
    ) -> SimpleNamespace:
        asked.append((source, output, weights))
        for seconds, what in (
            (1, "placing weights: 1 of 2 MB"),
            (2, "placing weights: 2 of 2 MB"),
            (4, "computing once with each network"),
            (8, "done"),
        ):
            now[0] = 100.0 + seconds
            on_progress(what, 0.5)
        records = {"unet.onnx": SimpleNamespace(size=30), "unet.weights": SimpleNamespace(size=700)}
        return SimpleNamespace(manifest=SimpleNamespace(files=records))

    monkeypatch.setattr("pocket_diffusion.importing.import_checkpoint", import_checkpoint)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    figures = measure_here("int8", "model.ckpt", "bundle")
    assert asked == [("model.ckpt", "bundle", "int8")]
    assert figures.keys() == RUN.keys()
    assert (figures["seconds"], figures["placed_seconds"], figures["bytes_on_disk"]) == (8, 4, 730)
    assert 0 < figures["peak_anonymous_bytes"] <= figures["peak_rss_bytes"]


def test_storages_take_turns_in_folders_beside_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    turns = []

    def run_script(script: str, name: str, storage: str, source: str, output: str) -> dict[str, float]:
        assert (script, name, source) == ("importing.py", "measure", str(checkpoint))
        assert Path(output).parent.parent == checkpoint.parent
        Path(output).mkdir()
        turns.append(storage)
        return RUN | {"seconds": float(len(turns))}

    monkeypatch.setattr(importing, "run_script", run_script)
    figures = measure(checkpoint, 2)
    assert turns == [*STORAGES, *STORAGES]
    assert {storage: [run["seconds"] for run in runs] for storage, runs in figures.items()} == {
        storage: [number, number + len(STORAGES)] for number, storage in enumerate(STORAGES, 1)
    }
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_nothing_is_left_of_an_import_that_fails(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    def run_script(*_: str) -> dict[str, float]:
        raise StageError("'measure' failed in a fresh process")

    monkeypatch.setattr(importing, "run_script", run_script)
    with pytest.raises(StageError):
        measure(checkpoint, 1)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_its_table_has_medians_by_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "describe", lambda machine: machine["cpu"])
    runs = [RUN, RUN | {"seconds": 40.0}, RUN | {"seconds": 30.0}]
    figures = {"machine": {"cpu": "a CPU"}, "checkpoint": "a.ckpt", "bytes": 4e9, "measurements": {"fp16": runs}}
    headline, table = tables(figures)
    assert headline == "a.ckpt (4000 MB), a CPU"
    cells = [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]
    assert cells == ["fp16", "30.0", "15.0", "300", "400", "2000"]


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "nowhere.ckpt")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "no file at" in process.stderr.splitlines()[-1]


def test_a_checkpoint_that_is_none_ends_the_benchmark(checkpoint: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(checkpoint), "--runs", "1"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "'measure' failed in a fresh process" in process.stderr.splitlines()[-1]
    assert process.stdout == ""
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
