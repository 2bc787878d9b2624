"""attack.py: all attacks at once for a moment; what they do to the server is not measured here."""

import io
import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

import attack

SCRIPT = Path(attack.__file__)


def test_a_file_of_many_frames_is_one_that_pillow_reads() -> None:
    with Image.open(io.BytesIO(attack.many_frames()), formats=["TIFF"]) as picture:
        assert picture.n_frames == 2000
        picture.seek(1999)
        picture.load()


def test_an_attack_of_a_moment(tmp_path: Path) -> None:
    output = tmp_path / "attack.json"
    process = subprocess.run(
        [sys.executable, SCRIPT, "--seconds", "1", "--size", "64x64", "--steps", "2", "--output", output],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert output.is_file(), process.stderr
    found = json.loads(output.read_text())["measurements"]
    assert all(found["attacks"][name]["tries"]["connections"] for name in attack.HOLDING)
    assert found["healthz_seconds"]["looks"] >= 1
    assert list(found["memory_bytes"]) == ["started", "after one drawing", "most, under attack"]
    for shown in (
        "| `/healthz`, 99th percentile",
        "| most resident memory, of that after one drawing",
        "| JSON 10 mill",
    ):
        assert shown in process.stdout
