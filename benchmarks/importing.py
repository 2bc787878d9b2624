"""What importing a checkpoint takes without PyTorch: time and memory, by the storage of weights.

    python benchmarks/importing.py CHECKPOINT [--runs 3] [--output results.json]

Each import runs in a fresh process, into a folder beside CHECKPOINT that is removed; storages take turns. The first run
reads CHECKPOINT from the disk, if it is not cached. README.md beside this file says what each figure means. Linux only.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

from fresh_process import StageError, run_script
from machine import describe, machine_facts
from peak_memory import AnonymousMemoryWatch, peaks
from pocket_diffusion.bundle import WeightStorage
from report import markdown_table, output_path, positive, progress, publish, seconds_text

STORAGES = get_args(WeightStorage)
CHECKS = ("computing once with each network", "comparing 8-bit with exact arithmetic on a picture")
"""What an import says that it does when the weights are placed."""


def measure(checkpoint: Path, runs: int) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each run, by storage.

    Raises:
        StageError: an import failed.

    """
    figures: dict[str, list[dict[str, float]]] = {storage: [] for storage in STORAGES}
    for number in range(1, runs + 1):
        for storage in STORAGES:
            with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
                ran = run_script("importing.py", "measure", storage, str(checkpoint), f"{folder}/bundle")
            figures[storage].append(ran)
            progress(f"run {number} of {runs}, {storage}: {ran['seconds']:.1f} s")
    return figures


def measure_here(storage: WeightStorage, checkpoint: str, output: str) -> dict[str, float]:
    """Import in this process, and return what that took."""
    moments: dict[str, float] = {}
    with AnonymousMemoryWatch() as anonymous:
        began = time.perf_counter()
        from pocket_diffusion.importing import import_checkpoint

        bundle = import_checkpoint(
            checkpoint,
            output,
            weights=storage,
            on_progress=lambda what, _: moments.setdefault(what.partition(":")[0], time.perf_counter() - began),
        )
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "placed_seconds": next(moments[what] for what in CHECKS if what in moments),
        **peaks(anonymous),
        "bytes_on_disk": sum(record.size for record in bundle.manifest.files.values()),
    }


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, and the medians by storage."""
    rows = []
    for storage, runs in figures["measurements"].items():
        medians = {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        sizes = (medians[f] / 1e6 for f in ("peak_anonymous_bytes", "peak_rss_bytes", "bytes_on_disk"))
        texts = map(seconds_text, (medians["seconds"], medians["placed_seconds"]))
        rows.append([storage, *texts, *(f"{size:.0f}" for size in sizes)])
    header = ["median", "whole, s", "weights placed after, s", "peak anonymous, MB", "peak RSS, MB", "bundle, MB"]
    headline = f"{figures['checkpoint']} ({figures['bytes'] / 1e6:.0f} MB), {describe(figures['machine'])}"
    return [headline, markdown_table(header, rows)]


def main() -> None:
    """Run from the command line."""
    if sys.argv[1:2] == ["measure"]:
        json.dump(measure_here(*sys.argv[2:5]), sys.stdout)  # type: ignore[arg-type] # the first is of `STORAGES`
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a .safetensors or .ckpt")
    parser.add_argument("--runs", type=positive, default=3, help="of each storage (default: 3)")
    parser.add_argument("--output", type=output_path, metavar="FILE.json", help="write all figures there too")
    arguments = parser.parse_args()
    if not arguments.checkpoint.is_file():
        parser.error(f"no file at {arguments.checkpoint}; give a .safetensors or a .ckpt")
    facts = {"checkpoint": arguments.checkpoint.name, "bytes": arguments.checkpoint.stat().st_size}
    figures: dict[str, Any] = {"benchmark": "importing", "machine": machine_facts(), **facts}
    try:
        figures["measurements"] = measure(arguments.checkpoint, arguments.runs)
    except StageError as error:
        raise SystemExit(str(error)) from None
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
