"""What the benchmarks share around a measurement: options, statistics, tables, JSON."""

import argparse
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from machine import describe
from pocket_diffusion.model.arithmetic import ARITHMETICS
from pocket_diffusion.model.budget import AUTO
from pocket_diffusion.model.memory import MODES

SMALLEST_SIDE, SIDE_STEP = 64, 8
"""Of pictures, in pixels, as the runtime allows."""
IDENTICAL_PSNR = 100.0
"""dB; stands for infinity, which JSON does not know."""


def bundle_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options of all that draw with the runtime."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("bundle", nargs="?", metavar="BUNDLE", help="a bundle's folder (default: the embedded model)")
    add_measuring(parser)
    return parser


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Have a parser take what every benchmark of drawing takes."""
    parser.add_argument("--size", type=size, metavar="WIDTHxHEIGHT", help="in pixels (default: the bundle's)")
    parser.add_argument("--threads", type=positive, help="default: each system's own choice")
    parser.add_argument("--output", type=output_path, metavar="FILE.json", help="write all figures there too")


def workload_parser(description: str, *, default_steps: int | None) -> argparse.ArgumentParser:
    """Return a parser of what those take that measure the runtime alone; steps of `None` are the bundle's own."""
    parser = bundle_parser(description)
    steps = "the bundle's" if default_steps is None else str(default_steps)
    parser.add_argument(
        "--steps", type=positive, default=default_steps, help=f"of the whole picture (default: {steps})"
    )
    parser.add_argument("--provider", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--memory", choices=(AUTO, *MODES), default=AUTO, help="the runtime's memory mode")
    add_arithmetic(parser)
    return parser


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """Have a parser take the runtime's arithmetic."""
    parser.add_argument("--arithmetic", choices=ARITHMETICS, default=AUTO, help="the runtime's arithmetic")


def size(text: str) -> tuple[int, int]:
    """Read `512x384` as width and height."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    sides = tuple(map(int, match.groups())) if match else ()
    if not sides or any(side < SMALLEST_SIDE or side % SIDE_STEP for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size such as 512x512, with sides from {SMALLEST_SIDE} in steps of {SIDE_STEP}"
        )
    return sides[0], sides[1]


def positive(text: str) -> int:
    """Read a whole number from 1."""
    return _whole(text, at_least=1)


def not_negative(text: str) -> int:
    """Read a whole number from 0."""
    return _whole(text, at_least=0)


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the spread: extremes and quartiles (linear between neighbouring values)."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values),
        "min": min(values),
        "lower_quartile": quartiles[0],
        "upper_quartile": quartiles[2],
        "max": max(values),
    }


def relative_error(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Return ‖other − reference‖ / ‖reference‖, by the Euclidean norm."""
    return float(np.linalg.norm(other - reference) / np.linalg.norm(reference))


def psnr(reference: NDArray[Any], other: NDArray[Any], peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB, and `IDENTICAL_PSNR` where there is no noise."""
    error = np.mean((reference.astype(np.float64) - other) ** 2)
    return 20 * math.log10(peak) - 10 * math.log10(error) if error else IDENTICAL_PSNR


def headline(figures: dict[str, Any]) -> str:
    """Return, as one line, what was run on what: it belongs above every table of figures."""
    bundle, workload = figures["bundle"], figures["workload"]
    what = [f"{bundle['name']} ({bundle['weights']} weights, for {bundle['target']})"]
    if "width" in workload:
        what.append(f"{workload['width']}×{workload['height']}")
    what += [f"{workload['steps']} steps"] if "steps" in workload else []
    what.append(workload["provider"])
    if "threads" in workload:
        what.append(f"threads {workload['threads'] or 'automatic'}")
    what += [f"{name} {workload[name]}" for name in ("memory", "arithmetic") if name in workload]
    return f"{', '.join(what)}; {describe(figures['machine'])}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column to the left and figures to the right."""
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *figures = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join([first, *figures])} |"

    rule = f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    return "\n".join([line(header), rule, *map(line, rows)])


def seconds_text(seconds: float) -> str:
    """Return seconds with three significant figures or so."""
    if seconds >= 100:
        return f"{seconds:.0f}"
    return f"{seconds:.{1 if seconds >= 10 else 2 if seconds >= 1 else 4}f}"


def progress(text: str) -> None:
    """Tell whoever waits; standard output is for the tables."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def publish(figures: dict[str, Any], tables: Iterable[str], output: Path | None) -> None:
    """Print the tables, and write the figures as JSON where that was asked for."""
    sys.stdout.write("\n\n".join(tables) + "\n")
    if output is not None:
        output.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")


def _whole(text: str, *, at_least: int) -> int:
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {at_least}")
    return int(text)


def output_path(text: str) -> Path:
    """Refuse at once what could not be written at the end of a long run."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text}: {error.strerror}") from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}")
    return path
