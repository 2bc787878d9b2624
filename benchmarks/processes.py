"""What several processes draw together in a batch, beside one with all threads: pictures a minute, and memory.

    python benchmarks/processes.py [BUNDLE] [--ways 1x2 2x1] [--modes fast balanced] [--rows 4] [--output results.json]

A way is PROCESSESxTHREADS. README.md beside this file says what each figure means.
"""

import argparse
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch import draw_undisturbed, write_prompts
from machine import machine_facts
from pocket_diffusion.machine.cpu import cores
from pocket_diffusion.model.memory import MODES
from report import headline, markdown_table, positive, progress, publish, workload_parser
from stages import Workload, parse_workload

Way = tuple[int, int]
"""Processes, and threads of each."""


def way(text: str) -> Way:
    """Read `2x1`; argparse tells what is wrong."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not PROCESSESxTHREADS, such as 2x1")
    return int(match[1]), int(match[2])


def measure(workload: Workload, ways: list[Way], modes: list[str], rows: int, place: Path) -> dict[str, Any]:
    """Return by mode and way what is drawn in a second once all processes have drawn a picture each, and memory."""
    write_prompts(place / "prompts.txt", rows)
    figures: dict[str, Any] = {"rows": rows, "modes": {}}
    for mode in modes:
        figures["modes"][mode] = {}
        for processes, threads in ways:
            name = f"{processes}x{threads}"
            progress(f"{mode}, {name}")
            figures["modes"][mode][name] = draw_undisturbed(
                replace(workload, memory=mode),
                place / "prompts.txt",
                place / f"{mode}-{name}",
                rows,
                processes,
                *("--processes", processes, "--threads", threads),
            )
    return figures


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report."""
    rows = []
    for mode, ways in figures["measurements"]["modes"].items():
        for name, found in ways.items():
            processes, threads = name.split("x")
            each = [f"{60 * found['rows_per_second']:.3g}", f"{found['anonymous_bytes']['at most'] / 1e6:,.0f} MB"]
            rows.append([mode, processes, threads, *each])
    header = ["memory", "processes", "threads of each", "pictures a minute", "anonymous memory, all together"]
    return [headline(figures), markdown_table(header, rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=2)
    everywhere = [(1, cores()), (cores(), 1)]
    parser.add_argument("--ways", type=way, nargs="+", default=everywhere, help="PROCESSESxTHREADS (default: extremes)")
    parser.add_argument("--modes", choices=MODES, nargs="+", default=["fast", "balanced"], help="memory modes")
    parser.add_argument("--rows", type=positive, default=4, help="of each batch (default: 4)")
    arguments, workload = parse_workload(parser)
    if arguments.rows <= max(processes for processes, _ in arguments.ways):
        parser.error("--rows must be more than there are processes, as the first picture of each loads the model")
    figures: dict[str, Any] = {
        "benchmark": "processes",
        "machine": machine_facts(),
        **workload.facts(varied=["threads", "memory"]),
    }
    with tempfile.TemporaryDirectory() as place:
        figures["measurements"] = measure(workload, arguments.ways, arguments.modes, arguments.rows, Path(place))
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
