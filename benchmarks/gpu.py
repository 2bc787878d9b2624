"""On one GPU: the runtime beside diffusers, eager and compiled, and plain ONNX Runtime, all in float16, by turns.

    python benchmarks/gpu.py --gather FOLDER [--python 3.12] [--only NAME ...] [--parts MB]
    python benchmarks/gpu.py --wheels FOLDER [OPTIONS]
    python benchmarks/gpu.py [--checkpoint PATH] [--size 512x512] [--minutes 10] [--rounds 2] [--output results.json]

The first fills a folder with wheels where there is a package registry; the second makes an environment of them where
there is none, and runs the benchmark in it. README.md beside this file says what each figure means.
"""

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gpu_wheels

WORK = Path(__file__).parent / "work" / "gpu"
REFERENCE = "reference"
SYSTEMS = {
    "ours": "Pocket Diffusion, float16",
    "onnxruntime": "ONNX Runtime, float16, unfused export",
    "diffusers-compiled": "diffusers, float16, torch.compile, channels last",
    "diffusers": "diffusers, float16, eager",
}
"""What is compared, in the order in which it draws; the first is compared with the others."""
CELLS = ((1, 20), (1, 50), (4, 20), (8, 20), (4, 50), (8, 50))
"""How many pictures at once, and their steps; in the order of what matters. Of the first, the pictures are compared."""

GRACE_SECONDS = 150.0
"""What a process may take beyond its share: a drawing that has begun may end, and a compilation."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one process draws: all that it has time for."""

    system: str
    work: str
    """The folder with what it reads; see `prepare_gpu.py`."""
    provider: str
    width: int
    height: int
    cells: Sequence[tuple[int, int]]
    started: float
    """When the process was started: `time.monotonic()`, the clock of the whole system."""
    until: float
    """When it begins nothing new."""
    output: str
    """The folder for `figures.json`, written anew after each cell, and `pictures.npy` of the first."""


class Comparison:
    """The turns of one run, and what they showed so far."""

    def __init__(self, figures: dict[str, Any], arguments: argparse.Namespace, until: float) -> None:
        """Add to `figures`; nothing begins after `until`, by `time.monotonic()`."""
        self.figures = figures | {"drawings": [], "failures": {}, "left_out": []}
        self._arguments = arguments
        self._until = until
        self._reference: Any = None

    def run(self) -> None:
        """Draw the reference, and then with each system in each round."""
        systems, rounds = self._arguments.systems, self._arguments.rounds
        if not self._arguments.no_reference:
            self._reference = self._take_turn(REFERENCE, 0, self._arguments.cells[:1], self._until, provider="cpu")
        turns = list(itertools.product(range(1, rounds + 1), systems))
        for i, (number, system) in enumerate(turns):
            if system not in self.figures["failures"]:
                now = time.monotonic()
                share = now + max(self._until - now, 0) / (len(turns) - i)
                self._take_turn(system, number, self._arguments.cells, share, provider=self._arguments.provider)

    def _take_turn(
        self, system: str, number: int, cells: Sequence[tuple[int, int]], until: float, *, provider: str
    ) -> Any:  # noqa: ANN401 - an array; NumPy is imported where it is needed
        import numpy as np

        from device_memory import DeviceMemoryWatch
        from report import progress, psnr

        width, height = self._arguments.size
        with tempfile.TemporaryDirectory() as output, DeviceMemoryWatch() as memory:
            turn = Turn(
                system=system,
                work=str(self._arguments.work),
                provider=provider,
                width=width,
                height=height,
                cells=cells,
                started=time.monotonic(),
                until=until,
                output=output,
            )
            fault = _run_turn(turn)
            path = Path(output, "figures.json")
            drawn = json.loads(path.read_text()) if path.exists() else []
            pictures = np.load(Path(output, "pictures.npy")) if drawn else None
        if fault is not None:
            progress(f"{system}: {fault}")
            self.figures["failures"][system] = fault
        for one in drawn:
            one |= {"system": system, "round": number, "peak_bytes": memory.peak(one["begins"], one["ends"])}
            if one is drawn[0] and self._reference is not None:
                one["psnr"] = psnr(self._reference, pictures, 255)
            progress(f"{system}: {one['count']} × {one['steps']} steps in {one['seconds']:.3g} s")
        self.figures["drawings"] += drawn
        if fault is None:
            missing = [cell for cell in cells if list(cell) not in [[one["count"], one["steps"]] for one in drawn]]
            self.figures["left_out"] += [{"system": system, "round": number, "cell": cell} for cell in missing]
        return pictures


def _run_turn(turn: Turn) -> str | None:
    """Run a process, and return why it failed, or None."""
    command = [sys.executable, str(Path(__file__).with_name("gpu_draw.py")), json.dumps(asdict(turn))]
    limit = max(turn.until - time.monotonic(), 0) + GRACE_SECONDS
    try:
        process = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"took more than {limit:.0f} s and was stopped"
    if process.returncode != 0:
        last = [line for line in process.stderr.splitlines() if line.strip()][-1:]
        return f"exit status {process.returncode}: {''.join(last)[:300]}"
    return None


def summarise_cells(drawings: Sequence[dict[str, Any]]) -> dict[tuple[str, int, int], dict[str, float | None]]:
    """Return the medians over the rounds of each system's cells, by system, pictures and steps."""
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for one in drawings:
        found.setdefault((one["system"], one["count"], one["steps"]), []).append(one | _of_evaluations(one))
    figures = ("picture", "step", "idle", "peak_bytes", "first_picture", "psnr")
    return {
        cell: {
            name: statistics.median(values)
            if (values := [x[name] for x in several if x.get(name) is not None])
            else None
            for name in figures
        }
        for cell, several in found.items()
    }


def _of_evaluations(one: dict[str, Any]) -> dict[str, float]:
    """Return what the moments at which the U-Net began and ended say: seconds a step, and the share between them."""
    begins, ends = zip(*one["evaluations"], strict=True)
    whole = ends[-1] - begins[0]
    busy = sum(end - begin for begin, end in zip(begins, ends, strict=True))
    return {"picture": one["seconds"] / one["count"], "step": whole / one["steps"], "idle": max(1 - busy / whole, 0.0)}


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: each system's medians, what ours takes of each other's time, and what was left out."""
    from machine import describe
    from report import markdown_table, seconds_text

    cells = summarise_cells(figures["drawings"])
    header = ["median", "pictures", "steps", "s a picture", "step, ms", "idle", "device, GB", "PSNR, dB", "first, s"]

    def text(value: float | None, show: str, factor: float = 1.0) -> str:
        return "–" if value is None else format(factor * value, show)

    rows = [
        [
            system,
            str(count),
            str(steps),
            seconds_text(found["picture"] or 0.0),
            text(found["step"], ".1f", 1e3),
            text(found["idle"], ".1%"),
            text(found["peak_bytes"], ".2f", 1e-9),
            text(found["psnr"], ".1f"),
            text(found["first_picture"], ".1f"),
        ]
        for (system, count, steps), found in cells.items()
    ]
    size = f"{figures['width']}×{figures['height']}"
    parts = [f"{figures['checkpoint']}, {size}, {figures['provider']}; {describe(figures['machine'])}"]
    parts.append(markdown_table(header, rows))
    first = next(iter(SYSTEMS))
    ratios = [
        [f"{first} / {system}", str(count), str(steps), f"{ours['picture'] / theirs['picture']:.2f}"]  # type: ignore[operator] # all have been timed
        for (system, count, steps), theirs in cells.items()
        if system in SYSTEMS and system != first and (ours := cells.get((first, count, steps))) is not None
    ]
    if ratios:
        parts.append(markdown_table(["ratio of medians", "pictures", "steps", "a picture"], ratios))
    parts += [f"{system} failed: {why}" for system, why in figures["failures"].items()]
    parts += [
        "left out for want of time: {system}, round {round}, {cell[0]} × {cell[1]} steps".format(**one)
        for one in figures["left_out"]
    ]
    return parts


def prepare(arguments: argparse.Namespace) -> None:
    """Write what the systems read, where it is missing: the bundle and the others' files at the same time.

    Raises:
        SystemExit: it could not be written.

    """
    from report import progress

    script = [sys.executable, str(Path(__file__).with_name("prepare_gpu.py")), str(arguments.work)]
    given = [arguments.provider, *([] if arguments.checkpoint is None else [str(arguments.checkpoint)])]
    start = partial(subprocess.Popen, stdout=sys.stderr)
    for kinds in (["checkpoint"], ["ours", "peers"]):
        progress(f"writing {', '.join(kinds)}, where they are missing")
        writers = [start([*script, kind, *given]) for kind in kinds]
        statuses = [writer.wait() for writer in writers]
        if any(statuses):
            raise SystemExit("what the systems read could not be written")


def main() -> None:
    """Run from the command line; nothing but Python's own library is needed until wheels are installed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], add_help=False)
    gpu_wheels.add_options(parser)
    arguments, _ = parser.parse_known_args()
    if gpu_wheels.handle(arguments, Path(__file__)):
        return
    from report import output_path, positive, size

    parser.add_argument("-h", "--help", action="help")
    parser.add_argument("--checkpoint", type=Path, help="default: random weights in Stable Diffusion 1.5's shape")
    parser.add_argument("--work", type=Path, default=WORK, help="where what the systems read is kept")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu tries the benchmark itself")
    parser.add_argument("--size", type=size, default=(512, 512), metavar="WIDTHxHEIGHT")
    parser.add_argument("--minutes", type=positive, default=10, help="of the whole run (default: 10)")
    parser.add_argument("--rounds", type=positive, default=2, help="in each, every system draws once (default: 2)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument(
        "--cells", nargs="+", type=_cell, default=CELLS, metavar="PICTURESxSTEPS", help="default: 1x20 1x50 4x20 …"
    )
    parser.add_argument("--no-reference", action="store_true", help="without the picture in float32, and its errors")
    parser.add_argument("--output", type=output_path, metavar="FILE.json", help="write all figures there too")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    from machine import PACKAGES, machine_facts
    from report import progress, publish

    if shutil.disk_usage(Path(__file__).parent).free < 20e9 and arguments.checkpoint is None:
        progress("there may be too little room: the checkpoint and what is made of it take 20 GB")
    prepare(arguments)
    figures = {
        "benchmark": "gpu",
        "machine": machine_facts([*PACKAGES, "torch", "diffusers", "transformers"]),
        "checkpoint": "random weights" if arguments.checkpoint is None else arguments.checkpoint.name,
        "provider": arguments.provider,
        "width": arguments.size[0],
        "height": arguments.size[1],
        "systems": {name: SYSTEMS[name] for name in arguments.systems},
        "minutes": arguments.minutes,
        "rounds": arguments.rounds,
    }
    comparison = Comparison(figures, arguments, until)
    try:
        comparison.run()
    except KeyboardInterrupt:
        progress("interrupted; what was measured until now follows")
    publish(comparison.figures, tables(comparison.figures), arguments.output)
    raise SystemExit(int(bool(comparison.figures["failures"])))


def _cell(text: str) -> tuple[int, int]:
    """Read `4x20` as four pictures at once of 20 steps."""
    count, _, steps = text.partition("x")
    if not (count.isdecimal() and steps.isdecimal() and int(count) and int(steps)):
        raise argparse.ArgumentTypeError(f"{text!r} is not PICTURESxSTEPS such as 4x20")
    return int(count), int(steps)


if __name__ == "__main__":
    main()
