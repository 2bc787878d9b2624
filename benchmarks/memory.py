"""How much memory each stage of drawing a picture takes at most, each in a fresh process.

    python benchmarks/memory.py [BUNDLE] [--size 512x512] [--steps N] [--output results.json]

README.md beside this file says what each figure means. Linux only.
"""

from dataclasses import replace
from typing import Any

from fresh_process import StageError, run_script
from machine import machine_facts
from pocket_diffusion.model.memory import MODES
from report import headline, markdown_table, progress, publish, workload_parser
from stages import STAGES, WHOLE, Workload, parse_workload

ALONE = ("import", "load", *(stage for stage in STAGES if stage != WHOLE))
DEFAULT_STEPS = 2  # the peak of a picture does not grow with its steps


def measure(workload: Workload) -> dict[str, dict[str, float]]:
    """Return the peaks of each stage in the workload's memory mode, and of whole pictures in every mode, in bytes.

    Raises:
        StageError: a stage failed, or was killed for using too much.

    """
    todo = [(stage, stage, workload) for stage in ALONE]
    todo += [(f"{WHOLE}, {mode}", WHOLE, replace(workload, memory=mode)) for mode in MODES]
    peaks = {}
    for number, (name, stage, work) in enumerate(todo, start=1):
        progress(f"{name} ({number} of {len(todo)})")
        peaks[name] = run_script("peak_memory.py", stage, work.as_json())
    return peaks


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, and the peaks by stage."""
    rows = [
        [stage, *(f"{peaks[figure] / 1e6:.0f}" for figure in ("peak_rss_bytes", "peak_anonymous_bytes"))]
        for stage, peaks in figures["measurements"].items()
    ]
    return [headline(figures), markdown_table(["MB (10⁶ bytes)", "peak RSS", "peak anonymous"], rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=DEFAULT_STEPS)
    arguments, workload = parse_workload(parser)
    figures = {"benchmark": "memory", "machine": machine_facts(), **workload.facts()}
    try:
        figures["measurements"] = measure(workload)
    except StageError as error:
        raise SystemExit(str(error)) from None
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
