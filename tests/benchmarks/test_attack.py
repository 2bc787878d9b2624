"""attack.py: all attacks at once for a moment; what they do to the server is not measured here."""

import json
import subprocess
import sys
from pathlib import Path

import attack

SCRIPT = Path(attack.__file__)
HOLDING = ("half a head", "a body of a byte now and then", "nothing sent")


def test_an_attack_of_a_moment(tmp_path: Path) -> None:
    output = tmp_path / "attack.json"
    process = subprocess.run(
        [sys.executable, SCRIPT, "--seconds", "1", "--size", "64x64", "--steps", "2", "--output", output],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert output.is_file(), process.stderr
    found = json.loads(output.read_text())["measurements"]
    assert found["attacks"].keys() == attack.attacks().keys()
    assert all(found["attacks"][name]["tries"]["connections"] for name in HOLDING)
    assert found["healthz_seconds"]["looks"] >= 1
    assert list(found["memory_bytes"]) == ["started", "after one drawing", "most, under attack"]
    for shown in (
        "| `/healthz`, 99th percentile",
        "| most resident memory, of that after one drawing",
        "| JSON 10 mill",
    ):
        assert shown in process.stdout
