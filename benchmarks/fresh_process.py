"""Measurements in processes of their own, so that nothing that ran before is part of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class StageError(Exception):
    """What was to be measured in a process of its own failed there."""


def run_script(script: str, name: str, *arguments: str) -> dict[str, Any]:
    """Run one of these scripts in a fresh process with `name` and more arguments, and return the JSON that it prints.

    Raises:
        StageError: the process failed, or was killed (for using too much memory, perhaps).

    """
    command = [sys.executable, str(Path(__file__).with_name(script)), name, *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode != 0:
        raise StageError(f"{name!r} failed in a fresh process (exit status {process.returncode})")
    answer: dict[str, Any] = json.loads(process.stdout)
    return answer
