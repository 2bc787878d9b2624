"""How time and memory grow with the size of a picture, with threads, and with the number of pictures.

    python benchmarks/scaling.py [BUNDLE] [--size 512x512] [--memory MODE] [--vary size] [--output results.json]

Sizes are half to twice the default one (or `--size`). README.md beside this file says what each figure means.
"""

import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from draw import draw_fresh
from fresh_process import StageError
from machine import machine_facts
from pocket_diffusion.machine.cpu import cores
from report import (
    SIDE_STEP,
    SMALLEST_SIDE,
    headline,
    markdown_table,
    positive,
    progress,
    publish,
    seconds_text,
    workload_parser,
)
from stages import Workload, parse_workload
from systems import OURS

SHAPES = ((0.5, 0.5), (0.75, 1.25), (1, 1), (1.5, 1), (1.5, 1.5), (2, 2))
"""Widths and heights, relative to the default size."""
COUNTS = (1, 2, 4)
VARIED = ("size", "threads", "count")
FIGURES = ("step", "decode", "picture", "peak_rss_bytes", "peak_anonymous_bytes")
RELATIVE = ("step", "decode")
"""Also told per pixel, relative to the default size."""
DEFAULT_STEPS = 3
Measurements = dict[str, dict[str, dict[str, Any]]]
"""By what is varied (`VARIED`) and by its value."""
_HEADER = ("step, s", "decode, s", "picture, s", "peak RSS, MB", "anonymous, MB", "step per pixel", "decode per pixel")


def points(workload: Workload) -> dict[str, dict[str, Workload]]:
    """Return what can be drawn, by what is varied and by its value."""
    shapes = [(_side(width * workload.width), _side(height * workload.height)) for width, height in SHAPES]
    threads = [2**i for i in range(cores().bit_length()) if 2**i < cores()] + [cores()]
    return {
        "size": {f"{width}x{height}": replace(workload, width=width, height=height) for width, height in shapes},
        "threads": {str(number): replace(workload, threads=number) for number in threads},
        "count": {str(number): replace(workload, count=number) for number in COUNTS},
    }


def measure(workload: Workload, varied: Sequence[str], rounds: int) -> Measurements:
    """Return medians and all runs of `FIGURES` at each point; they take turns, and what cannot be drawn is left out."""
    columns = points(workload)
    todo = [(kind, value, point) for kind in varied for value, point in columns[kind].items()]
    base = draw_fresh(OURS[workload.memory], workload)
    seconds = sum(base["picture"] * _work(point) / _work(workload) for *_, point in todo)
    progress(f"{rounds} rounds of {len(todo)} pictures: about {rounds * seconds / 60:.1f} min")
    drawn: dict[tuple[str, str], list[dict[str, float]]] = {(kind, value): [] for kind, value, _ in todo}
    for number in range(1, rounds + 1):
        for kind, value, point in todo:
            try:
                figures = draw_fresh(OURS[workload.memory], point)
            except StageError as error:
                progress(f"{kind} {value}: {error}")
                continue
            drawn[kind, value].append(figures)
            progress(f"round {number} of {rounds}, {kind} {value}: step {seconds_text(figures['step'])} s")
    medians: Measurements = {kind: {} for kind, *_ in todo}
    for (kind, value), ran in drawn.items():
        if ran:
            raw = {name: [figures[name] for figures in ran] for name in FIGURES}
            medians[kind][value] = {name: statistics.median(values) for name, values in raw.items()} | {"runs": raw}
    for kind, value, point in todo:
        if value in medians[kind]:
            medians[kind][value]["pixels"] = point.width * point.height * point.count
    return medians


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, and one table for each thing that is varied."""
    workload, measurements = figures["workload"], figures["measurements"]
    base = measurements.get("size", {}).get(f"{workload['width']}x{workload['height']}")
    parts = [headline(figures)]
    for kind, column in measurements.items():
        rows = [
            [
                value,
                *(seconds_text(row[name]) for name in ("step", "decode", "picture")),
                *(f"{row[name] / 1e6:.0f}" for name in ("peak_rss_bytes", "peak_anonymous_bytes")),
                *(f"{_per_pixel(row, name) / _per_pixel(base, name):.2f}" if base else "–" for name in RELATIVE),
            ]
            for value, row in column.items()
        ]
        parts.append(markdown_table([kind, *_HEADER], rows))
    return parts


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=DEFAULT_STEPS)
    parser.add_argument("--rounds", type=positive, default=2, help="of all points (default: 2)")
    parser.add_argument("--vary", choices=VARIED, action="append", help="only this (default: each)")
    arguments, workload = parse_workload(parser)
    figures = {"benchmark": "scaling", "machine": machine_facts(), **workload.facts(varied=("threads", "count"))}
    try:
        figures["measurements"] = measure(workload, arguments.vary or VARIED, arguments.rounds)
    except StageError as error:
        raise SystemExit(str(error)) from None
    publish(figures, tables(figures), arguments.output)


def _side(pixels: float) -> int:
    """Round to a side that the runtime draws."""
    return max(SMALLEST_SIDE, round(pixels / SIDE_STEP) * SIDE_STEP)


def _work(workload: Workload) -> float:
    """Return what a picture takes, roughly and in units of its own: for the estimate alone."""
    return workload.width * workload.height * workload.count / (workload.threads or os.cpu_count() or 1)


def _per_pixel(row: dict[str, float], name: str) -> float:
    return row[name] / row["pixels"]


if __name__ == "__main__":
    main()
