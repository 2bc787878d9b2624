import json
import subprocess
import sys
from pathlib import Path

import pytest

import landscapes

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "landscapes.py"


def test_says_in_which_arithmetic_was_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    options = ["--count", "1", "--steps", "1", "--only-prompts", "--arithmetic", "exact", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    monkeypatch.setattr(landscapes, "measure_vae", lambda *_: {})  # 200 pictures
    landscapes.main()
    figures = json.loads(output.read_text())
    assert figures["arithmetic"] == "exact"
    assert figures["prompts"]["all attributes"]["of"] > 0


def test_refuses_an_arithmetic_that_the_bundle_lacks(tiny_bundle_fp16: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", str(tiny_bundle_fp16), "--arithmetic", "int8"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "the bundle has no 8-bit graph" in process.stderr.splitlines()[-1]
