"""caches.py: a row a cache, on one small run."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "caches.py"


def test_each_cache_is_compared_with_none(tmp_path: Path) -> None:
    output, sheet = tmp_path / "results.json", tmp_path / "sheet.png"
    options = ("--count", 1, "--caches", "reuse:1,reuse:2", "--steps", 8, "--size", "64x64", "--output", output)
    command = [sys.executable, SCRIPT, *options, "--sheet", sheet]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    found = {name: row["psnr_db"]["median"] for name, row in json.loads(output.read_text())["measurements"].items()}
    assert found["none"] == found["reuse:1"] > 99 > found["reuse:2"]
    with Image.open(sheet) as whole:
        assert whole.width == 64
        assert whole.height > 3 * 64
