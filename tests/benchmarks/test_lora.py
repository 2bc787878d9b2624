"""lora.py: the LoRA that it writes, and what it measures, on one small run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora import ATTENTION, FIGURES, write_lora
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.model.lora import CHANGEABLE, read_lora
from pocket_diffusion.model.memory import MODES
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lora.py"
SETUPS = [f"{mode}, {what}" for mode in MODES for what in ("plain", "LoRA")]


def test_its_lora_changes_every_attention_layer(tmp_path: Path) -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    layers = write_lora(bundle, 4, tmp_path / "attention.safetensors")
    lora = read_lora(tmp_path / "attention.safetensors", bundle)
    attention = {
        component: {
            name for name in bundle.layers(component).layers if name.removesuffix(".weight").endswith(ATTENTION)
        }
        for component in CHANGEABLE
    }
    found = {component: set(lora.changes[component]) for component in CHANGEABLE}
    assert found == attention
    assert layers == sum(map(len, attention.values())) > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_measures_every_memory_mode_with_and_without(tmp_path: Path) -> None:
    output = tmp_path / "lora.json"
    command = [sys.executable, str(SCRIPT), "--size", "64x64", "--arithmetic", "exact", "--runs", "1", "--rank", "2"]
    process = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    figures = json.loads(output.read_text())
    assert list(figures["measurements"]) == SETUPS
    assert (figures["benchmark"], figures["rank"]) == ("lora", 2)
    assert "memory" not in figures["workload"]
    for (run,) in figures["measurements"].values():
        assert run.keys() == {*FIGURES, "peak_rss_bytes"}
        assert all(figure > 0 for figure in run.values())
    rows = [line.split("|")[1].strip() for line in process.stdout.splitlines() if line.startswith("|")]
    assert rows[2:] == SETUPS
