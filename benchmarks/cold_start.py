"""How long it takes from the start of a process to the first step of a picture, in each memory mode.

    python benchmarks/cold_start.py [BUNDLE] [--size 512x512] [--memory MODE] [--runs 5] [--output results.json]

README.md beside this file says what each figure means.
"""

import statistics
from dataclasses import replace
from typing import Any

from draw import draw_fresh
from fresh_process import StageError
from machine import machine_facts
from pocket_diffusion.model.budget import AUTO
from pocket_diffusion.model.memory import MODES
from report import headline, markdown_table, positive, progress, publish, seconds_text, workload_parser
from stages import Workload, parse_workload
from systems import OURS

PHASES = {
    "Python": ("start", "python"),
    "imports": ("python", "imports"),
    "Pipeline.load": ("imports", "load"),
    "open text encoder": ("load", "text_encoder begins"),
    "encode prompt": ("text_encoder begins", "text_encoder ends"),
    "open U-Net": ("text_encoder ends", "unet begins"),
    "first step begins": ("start", "unet begins"),
    "first step ends": ("start", "step ends"),
}
"""The marks between which each phase lies."""


def measure(workload: Workload, modes: list[str], runs: int) -> dict[str, list[dict[str, float]]]:
    """Return the seconds of each phase in each run, by memory mode; the modes take turns.

    Raises:
        StageError: a process failed.

    """
    phases: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
    for number in range(1, runs + 1):
        for mode in modes:
            figures = draw_fresh(OURS[mode], replace(workload, memory=mode))
            moments = {"start": 0.0} | {name: times[0] for name, times in figures["marks"].items()}
            phases[mode].append({name: moments[end] - moments[begin] for name, (begin, end) in PHASES.items()})
            progress(f"run {number} of {runs}, {mode}: first step begins after {figures['first_step_begins']:.2f} s")
    return phases


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, and the median of each phase by memory mode."""
    rows = [
        [mode, *(seconds_text(statistics.median(run[phase] for run in runs)) for phase in PHASES)]
        for mode, runs in figures["measurements"].items()
    ]
    return [headline(figures), markdown_table(["median, s", *PHASES], rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=1)
    parser.add_argument("--runs", type=positive, default=5, help="of each mode (default: 5)")
    arguments, workload = parse_workload(parser)
    modes = list(MODES) if arguments.memory == AUTO else [arguments.memory]
    figures = {"benchmark": "cold start", "machine": machine_facts(), **workload.facts(varied=("memory",))}
    try:
        figures["measurements"] = measure(workload, modes, arguments.runs)
    except StageError as error:
        raise SystemExit(str(error)) from None
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
