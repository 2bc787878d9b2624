"""What a batch costs over a bare loop, what memory it takes, and what kills do to it.

    python benchmarks/batch.py [BUNDLE] [--rows 10000] [--kills 20] [--size 64x64] [--steps 4] [--output results.json]

README.md beside this file says what each figure means. Exit 1 if kills changed a picture.
"""

import hashlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import machine_facts
from peak_memory import memory_now
from pocket_diffusion import Order
from pocket_diffusion.batch import Batch
from pocket_diffusion.batch.folder import PICTURES, RESULTS
from report import headline, markdown_table, not_negative, positive, progress, publish, workload_parser
from stages import Workload, parse_workload

_PLACES = ("a lake", "dunes", "a beach", "a forest", "a meadow", "snowy mountains", "hills")
_TIMES = ("at sunset", "at noon", "at night", "in the morning", "in winter", "in autumn")
_ROUNDS = 5
"""Of the bare loop and the batch in turn."""
_COMPARED = 60
"""Rows of a round."""
_PAUSE = 0.05
"""Seconds between looks at a batch that is drawn."""


def write_prompts(path: Path, rows: int) -> list[str]:
    """Write a file of so many prompts, and return them."""
    prompts = [f"{_PLACES[i % len(_PLACES)]} {_TIMES[i % len(_TIMES)]}" for i in range(rows)]
    path.write_text("\n".join(prompts) + "\n")
    return prompts


def loop_seconds(workload: Workload, prompts: list[str], folder: Path) -> float:
    """Return how long a loop takes that draws and saves, without loading."""
    pipeline = replace(workload, threads=1).load_pipeline()
    asked = {"width": workload.width, "height": workload.height, "steps": workload.steps}
    pipeline.generate(prompts[0], **asked)
    start = time.perf_counter()
    for number, prompt in enumerate(prompts):
        pipeline.generate(prompt, **asked, seed=number).save(folder / f"{number}.png")
    return time.perf_counter() - start


def batch_seconds(workload: Workload, prompts: Path, folder: Path) -> float:
    """Return how long a batch in one process takes from its first row to its last."""
    options = {"provider": workload.provider, "memory": workload.memory, "arithmetic": workload.arithmetic}
    usual = Order(prompt="", width=workload.width, height=workload.height, steps=workload.steps)
    with Batch(prompts, folder, model=workload.bundle, usual=usual, processes=1, **options) as batch:
        drawing = batch.draw()
        next(drawing)  # loads the model
        start = time.perf_counter()
        for _ in drawing:
            pass
        return (time.perf_counter() - start) * batch.rows / (batch.rows - 1)


def command(workload: Workload, prompts: Path, folder: Path, *options: object) -> list[str]:
    """Return the command line of a batch; without more options, with as many processes as it chooses."""
    arguments = [
        sys.executable,
        "-m",
        "pocket_diffusion",
        "batch",
        prompts,
        folder,
        "--quiet",
        "--memory",
        workload.memory,
    ]
    arguments += ["--width", workload.width, "--height", workload.height, "--steps", workload.steps]
    arguments += ["--model", workload.bundle] if workload.bundle else []
    arguments += ["--provider", workload.provider, "--arithmetic", workload.arithmetic]
    return [str(each) for each in (*arguments, *options)]


def anonymous_bytes(pid: int) -> int:
    """Return how much memory that no file backs a process and its children have."""
    total = 0
    with suppress(OSError):  # they end
        total = memory_now("RssAnon", Path(f"/proc/{pid}/status"))
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += anonymous_bytes(int(child))
    return total


class Journal:
    """Tells how many rows a batch has told of; it reads what is new alone."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESULTS
        self._read = self._rows = 0

    def rows(self) -> int:
        """Return how many there are by now."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            more = file.read()
            self._read += len(more)
            self._rows += more.count(b"\n")
        return self._rows


def draw_undisturbed(
    workload: Workload, prompts: Path, folder: Path, rows: int, warm: int, *options: object
) -> dict[str, Any]:
    """Draw a batch, and return its rate after so many rows, and its memory then, at most, and when all is drawn."""
    samples: list[tuple[int, float, int]] = []
    journal = Journal(folder)
    with subprocess.Popen(command(workload, prompts, folder, *options)) as process:
        while process.poll() is None:
            samples.append((journal.rows(), time.perf_counter(), anonymous_bytes(process.pid)))
            time.sleep(_PAUSE)
    if process.returncode:
        raise SystemExit("the batch failed")
    samples.append((Journal(folder).rows(), time.perf_counter(), samples[-1][2]))  # it may end between two looks
    begun = next(one for one in samples if one[0] >= warm)
    done = next(one for one in samples if one[0] == rows)  # after which the process still sorts its journal
    return {
        "rows_per_second": (done[0] - begun[0]) / max(done[1] - begun[1], _PAUSE),
        "anonymous_bytes": {
            f"after {warm:,} rows": begun[2],
            f"after {rows:,} rows": done[2],
            "at most": max(one[2] for one in samples),
        },
    }


def draw_with_kills(workload: Workload, prompts: Path, folder: Path, rows: int, kills: int) -> int:
    """Draw a batch that is killed at random moments, and return how often it was."""
    chance, done = random.Random(0), 0  # noqa: S311 - no secret
    moments = sorted(chance.randrange(rows) for _ in range(kills))
    """So many rows are drawn by each."""
    while True:
        journal = Journal(folder)
        process = subprocess.Popen(command(workload, prompts, folder), start_new_session=True)
        enough = moments[done] if done < kills else rows + 1
        while process.poll() is None and journal.rows() < enough:
            time.sleep(_PAUSE * chance.random())
        if process.poll() is not None:
            return done
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done += 1


def pictures(folder: Path) -> dict[str, str]:
    """Return the hash of each picture by its name."""
    files = sorted((folder / PICTURES).rglob("*.png"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def measure(workload: Workload, rows: int, kills: int, place: Path) -> dict[str, Any]:
    """Return all figures."""
    some = write_prompts(place / "some.txt", min(rows, _COMPARED))
    rounds = []
    for number in range(_ROUNDS):
        progress(f"round {number + 1} of {_ROUNDS}: a bare loop, and a batch in one process")
        (place / f"loop-{number}").mkdir()
        loop = loop_seconds(workload, some, place / f"loop-{number}")
        rounds.append({"loop": loop, "batch": batch_seconds(workload, place / "some.txt", place / f"batch-{number}")})
    write_prompts(place / "prompts.txt", rows)
    progress(f"{rows:,} rows undisturbed")
    undisturbed = draw_undisturbed(workload, place / "prompts.txt", place / "whole", rows, max(rows // 10, 1))
    progress(f"{rows:,} rows with {kills} kills")
    killed = draw_with_kills(workload, place / "prompts.txt", place / "killed", rows, kills)
    whole, resumed = pictures(place / "whole"), pictures(place / "killed")
    return {
        "rows": rows,
        "seconds_of_rows": {"rows": len(some), "rounds": rounds},
        "undisturbed": undisturbed,
        "kills": killed,
        "pictures_that_differ": sum(resumed.get(name) != digest for name, digest in whole.items()),
        "pictures_too_many": len(resumed.keys() - whole.keys()),
        "rows_in_the_journal": Journal(place / "killed").rows(),
    }


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report."""
    found = figures["measurements"]
    compared = found["seconds_of_rows"]
    loop, batch = (
        statistics.median(one[kind] for one in compared["rounds"]) / compared["rows"] for kind in ("loop", "batch")
    )
    ratio = statistics.median(one["batch"] / one["loop"] for one in compared["rounds"])
    memory = found["undisturbed"]["anonymous_bytes"]
    rows = [
        ["a bare loop, one thread: seconds a picture", f"{loop:.4f}"],
        ["a batch in one process: seconds a picture", f"{batch:.4f}"],
        ["a batch over the loop, median of rounds", f"{ratio:.3f} ×"],
        [
            f"{found['rows']:,} rows, as many processes as fit: pictures a second",
            f"{found['undisturbed']['rows_per_second']:.1f}",
        ],
        *([f"anonymous memory, {when}", f"{size / 1e6:.1f} MB"] for when, size in memory.items()),
        ["kills in between", str(found["kills"])],
        ["pictures that differ from an undisturbed batch's", str(found["pictures_that_differ"])],
        ["pictures too many", str(found["pictures_too_many"])],
    ]
    return [headline(figures), markdown_table(["batch", "figure"], rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=4)
    parser.add_argument("--rows", type=positive, default=1000, help="of the batch that is killed (default: 1000)")
    parser.add_argument("--kills", type=not_negative, default=20, help="in between (default: 20)")
    arguments, workload = parse_workload(parser)
    figures: dict[str, Any] = {"benchmark": "batch", "machine": machine_facts(), **workload.facts(varied=["threads"])}
    with tempfile.TemporaryDirectory() as place:
        figures["measurements"] = measure(workload, arguments.rows, arguments.kills, Path(place))
    publish(figures, tables(figures), arguments.output)
    if figures["measurements"]["pictures_that_differ"] or figures["measurements"]["pictures_too_many"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
